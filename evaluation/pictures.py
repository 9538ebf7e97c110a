"""The pictures of a run's best epoch: retrievals, distances, and a map of the embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation import retrievals
from evaluation.projection import project
from evaluation.retrievals import Tile, shortened, spaced
from utilities import plot
from utilities.checkpoint import replace
from utilities.geometry import squared_distances

N_QUERIES, N_NEIGHBOURS = 8, 6      # in a picture of retrievals
LIMIT, N_COMPARED = 2000, 1000      # points in the map, queries whose distances are counted
BINS = 240          # of the histograms, which show fewer where there are few pairs
BLOCK_ENTRIES = 2**22       # distances that are held at once
N_COLOURED, LONGEST = 12, 40    # in the map: classes that have a colour, characters of their names
BY = {"pca": "PCA", "tsne": "t-SNE"}
SAMPLES, WORST, MAP, DISTANCES = (
    "sample_recoveries.png", "worst_recoveries.png", "map.png", "distances")
Retrieved = list[list]      # [query, [rows of its neighbours], [their distances]] of some queries


class Pictures:
    """plots: when to draw: none, end, or epoch (whenever there is a better one); method: of the
    map, as `project` takes it.

    found: what will be drawn, plain types and tensors; {} where nothing is known of a best epoch.
    """

    def __init__(self, plots: str = "none", method: str = "pca"):
        self.plots, self.method = plots, method
        self.found: dict[str, Any] = {}

    @property
    def wanted(self) -> bool:
        return self.plots != "none"

    def take(self, split, title: Sequence[str], points: Sequence[Tensor],
             table: tuple[Tensor, Tensor]) -> None:
        """Keeps what there is to draw of an epoch. points: the embeddings of the split's loaders;
        table: the distances and rows (N, k) of each query's nearest neighbours."""
        distances, rows = (part.cpu().numpy() for part in table)
        queries = retrievals.choose(split.labels[0], N_QUERIES)
        self.found = {
            "title": list(title), "sizes": sizes(split),
            "samples": retrieved(queries, distances, rows),
            "worst": retrieved(worst_queries(split, distances, rows, N_QUERIES), distances, rows),
            "distances": count_distances(split, points), "map": sample(split, points)}

    def draw(self, split, logger) -> None:
        """Writes the pictures into the logger's folder and shows them on W&B."""
        found, folder = self.found, Path(logger.folder)
        if found["sizes"] != sizes(split):
            print("The pictures of the best epoch are left out: images were left out since then.",
                  flush=True)
            return
        first, *title = found["title"]
        for key, name, file in (("samples", "Sample retrievals", SAMPLES),
                                ("worst", "Worst retrievals", WORST)):
            write(folder / file, retrievals.draw([tiles(split, *entry) for entry in found[key]],
                                                 [f"{name}: {first}", *title]))
            logger.picture(name, folder / file)
        text = "\n".join(found["title"])
        histograms = draw_distances(text, **found["distances"])
        for kind in ("svg", "png"):     # W&B takes no SVG
            write(folder / f"{DISTANCES}.{kind}", plot.saved(histograms, kind, text))
        logger.picture("Distances", folder / f"{DISTANCES}.png")
        drawn = draw_map(text, self.method, split.queries.dataset.class_names, **found["map"])
        write(folder / MAP, plot.saved(drawn, "png", text))
        logger.picture("Map", folder / MAP)

    def finish(self, split, logger) -> None:
        """Draws what is due at the end, or says why that is nothing."""
        if self.plots == "end" and self.found:
            self.draw(split, logger)
        elif self.wanted and not self.found:
            print("No pictures: the run kept nothing of its best epoch to draw.", flush=True)


def write(path: Path, content: bytes) -> None:
    replace(path, lambda file: file.write(content), sync=False)


def sizes(split) -> list[int]:
    """How many images each loader of the split has."""
    return [len(labels) for labels in split.labels]


def retrieved(queries: np.ndarray, distances: np.ndarray, rows: np.ndarray) -> Retrieved:
    """The first N_NEIGHBOURS of each of `queries`, without the query itself, which stands in the
    table (N, k) at an infinite distance."""
    found = []
    for query in queries.tolist():
        near = np.isfinite(distances[query, :N_NEIGHBOURS])
        found.append([query, rows[query, :N_NEIGHBOURS][near].tolist(),
                      distances[query, :N_NEIGHBOURS][near].tolist()])
    return found


def worst_queries(split, distances: np.ndarray, rows: np.ndarray, n_queries: int) -> np.ndarray:
    """`retrievals.worst` of the split, by the table (N, k) of neighbours."""
    if rows.shape[1] == 0:      # a single image
        return np.empty(0, dtype=int)
    labels, among = split.labels[0], split.labels[-1]
    hits = (among[rows] == labels[:, None]) & np.isfinite(distances)
    n_classes = max(labels.max(), among.max()) + 1
    relevant = np.bincount(among, minlength=n_classes)[labels] - (split.own >= 0)
    return retrievals.worst(hits, relevant, distances[:, 0], labels, n_queries)


def tiles(split, query: int, rows: Sequence[int], distances: Sequence[float]) -> list[Tile]:
    """A query and its neighbours."""
    queries, gallery = (split.loaders[side].dataset for side in (0, -1))
    names, label = queries.class_names, queries.labels[query]
    line = [Tile(queries.paths[query], name=names[label], text="query")]
    for row, distance in zip(rows, distances, strict=True):
        other = gallery.labels[row]
        line.append(Tile(gallery.paths[row], bool(other == label), names[other],
                         f"{distance:.4g}"))
    return line


def count_distances(split, points: Sequence[Tensor]) -> dict[str, Any]:
    """Histograms of the distances of up to N_COMPARED evenly spaced queries to all images in which
    they are searched, but themselves.

    counts (2, BINS) int64, of pairs of one class and of two, in BINS equal steps up to `reach`,
    which no distance exceeds.
    """
    gallery = points[-1] - points[-1].mean(0)
    rows = torch.from_numpy(spaced(np.arange(len(points[0])), N_COMPARED)).to(gallery.device)
    queries = points[0][rows] - points[-1].mean(0)
    labels, among, own = (torch.as_tensor(part).to(gallery.device) for part in (
        split.labels[0], split.labels[-1], split.own))
    reach = float(queries.norm(dim=1).max() + gallery.norm(dim=1).max()) or 1.0
    counts = torch.zeros(2 * BINS + 1, dtype=torch.int64, device=gallery.device)
    for block in torch.arange(len(rows), device=gallery.device).split(
            max(1, BLOCK_ENTRIES // len(gallery))):
        distances = squared_distances(queries[block], gallery).sqrt_()
        bins = distances.mul_(BINS / reach).long().clamp_(max=BINS - 1)
        bins += BINS * (labels[rows[block], None] != among)
        own_of_block = own[rows[block]]
        itself = (own_of_block >= 0).nonzero().flatten()
        bins[itself, own_of_block[itself]] = 2 * BINS
        counts += bins.flatten().bincount(minlength=2 * BINS + 1)
    return {"counts": counts[:-1].reshape(2, BINS).cpu(), "reach": reach,
            "n_queries": len(rows), "n_all": len(points[0])}


def sample(split, points: Sequence[Tensor]) -> dict[str, Any]:
    """Up to LIMIT images of the split, each once: their labels (n,) int64 and embeddings (n, D),
    the classes that get a colour, and how many images there are.

    The classes are up to N_COLOURED evenly spaced ones of two images or more. Where not all images
    have room, those classes get half of it, or what the others leave.
    """
    _, labels, points = split.union(points)
    classes, counts = np.unique(labels, return_counts=True)
    coloured = spaced(classes[counts > 1], N_COLOURED)
    has_colour = np.isin(labels, coloured)
    others = np.flatnonzero(~has_colour)
    others = spaced(others, max(LIMIT // 2, LIMIT - int(has_colour.sum())))
    rows = np.sort(np.concatenate([
        others, spaced(np.flatnonzero(has_colour), LIMIT - len(others))]))
    rows = torch.from_numpy(rows)
    return {"labels": torch.from_numpy(labels)[rows], "points": points[rows].cpu(),
            "coloured": coloured.tolist(), "n_all": len(labels)}


def draw_distances(title: str, counts: Tensor, reach: float, n_queries: int, n_all: int):
    """A figure of the histograms that `count_distances` returns, each of area 1."""
    figure, axes = plot.drawing(title)
    counts, centres = counts.numpy(), (np.arange(BINS) + 0.5) * reach / BINS
    used = 1 + counts.sum(0).nonzero()[0].max(initial=0)
    fewest = min(filter(None, counts.sum(1)), default=1)
    merged = max(1, round(used / np.sqrt(fewest).clip(12, 80)))     # steps in one bar
    edges = np.arange(0, used + merged, merged) * reach / BINS      # of the bars
    labels, areas = [], []
    for steps, kind, colour, style in zip(counts, ("one class", "two classes"), plot.PALETTE,
                                          ("-", "--"), strict=False):
        n = steps.sum()
        bars = np.histogram(centres, edges, weights=steps)[0] / max(1, n) / edges[1]
        areas.append(axes.stairs(bars, edges, fill=True, color=colour, alpha=0.35))
        axes.stairs(bars, edges, color=colour, linestyle=style, linewidth=1.5)
        mean = f", mean {steps @ centres / n:.4g}" if n else ""
        labels.append(f"{n:,} pairs of {kind}{mean}")
    axes.set_xlabel("distance" if n_queries == n_all else
                    f"distance (of {n_queries:,} of {n_all:,} queries to all images)")
    axes.set_ylabel("density")
    axes.set_xlim(0, edges[-1])
    plot.legend(axes, areas, labels)
    return figure


def draw_map(title: str, method: str, names: Sequence[str], labels: Tensor, points: Tensor,
             coloured: Sequence[int], n_all: int):
    """A figure of what `sample` returns, in two dimensions; names: of each label."""
    flat, labels = project(points, method), labels.numpy()
    some = f"{len(flat):,} of {n_all:,}" if len(flat) < n_all else f"{n_all:,}"
    figure, axes = plot.drawing(f"{title}\n{some} images by {BY[method]}", width=10, height=7)
    others = ~np.isin(labels, coloured)
    shown, texts = [], []
    if others.any():
        shown.append(axes.scatter(*flat[others].T, s=8, color="#C8C8C8", linewidths=0))
        texts.append("other classes")
    for i, label in enumerate(coloured):
        shown.append(axes.scatter(
            *flat[labels == label].T, s=26, color=plot.PALETTE[i % len(plot.PALETTE)],
            marker=plot.MARKERS[i % len(plot.MARKERS)], linewidths=0.3, edgecolors="white"))
        texts.append(shortened(names[label], lambda text: len(text) <= LONGEST))
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    plot.legend(axes, shown, texts, loc="center left", bbox_to_anchor=(1, 0.5),
                fontsize=plot.SMALL)
    return figure

