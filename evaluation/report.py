"""`python -m evaluation.report`: a run's results as one page that needs no network.

The page holds its style, script, images and data. `report_page/` has the first two, and the
skeleton into which they are filled; everything that depends on the run is JSON, which the script
shows as text.
"""

from pathlib import Path

import parameters
from evaluation import tools
from utilities import terminal, tool
from utilities.options import Flag

PROGRAM = "evaluation.report"
DESCRIPTION = "Write report.html, a page about a run and its test images, into the run's folder."
FLAGS = (
    Flag("folder", Path, None, "folder of a run", required=True),
    Flag("--evaltype", str, None, "embedding to show: one of the run's evaltypes, of which it kept "
         "the best checkpoint; when not given: its last"),
    parameters.FLAGS["map"], tools.SOURCE_PATH, tools.SKIP, *tools.MACHINE,
)

if __name__ == "__main__":      # before torch is imported
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import html
import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.images import box_of
from evaluation import best, history, per_class, thumbnails
from evaluation.evaluate_only import plain
from evaluation.evaluator import Split, score
from evaluation.history import History
from evaluation.pictures import retrieved, worst_queries
from evaluation.projection import project
from evaluation.retrievals import in_turn, spaced
from utilities.errors import refuse
from utilities.files import fault
from utilities.options import OPTIONS_FILE, read_stored
from utilities.options import plain as words

PAGE = "report.html"
PARTS = Path(__file__).parent / "report_page"
GENERATOR = b'<meta name="generator" content="DiVA evaluation.report">'     # in page.html, too
LIMIT = 20_000_000          # bytes of the page
N_RANDOM, N_WORST, N_FURTHER = 24, 24, 150      # queries that are shown with their neighbours
N_PAIRS, MOST_ON_MAP = 50, 2000
SIDE, TILE = 128, 64        # pixels of an image among retrievals, and on the map


def main(arguments: Namespace) -> None:
    folder, target = arguments.folder, arguments.folder / PAGE
    options = read_stored(folder / OPTIONS_FILE, parameters.FLAGS, flag="folder")
    evaltype = arguments.evaltype or options["evaltypes"][-1]
    path = best.checkpoint(folder, options, evaltype, "folder")
    check_target(target)
    past = history.read(folder, "folder")
    network, split = best.opened(path, arguments)
    check_images(split, past)
    found = Found(split, best.embedded(network, split, evaltype))
    run = about(folder, options, past, evaltype)
    page, left_out = fitted(run | found.content(arguments.map))
    check_target(target)
    tool.write(target, lambda file: file.write(page))
    print("\n".join([*left_out, f"{evaltype}: {len(found.labels):,} queries, "
                     f"{len(page) / 1e6:.1f} MB in {target}"]))


def check_target(target: Path) -> None:
    """UserError where `target` is there and this tool did not write it, or cannot be written."""
    if not os.path.lexists(target):
        return tool.check_new(target, "folder")
    tool.check_folder(target, "folder")
    try:
        ours = not fault(target, "file") and GENERATOR in target.read_bytes()[:1000]
    except OSError:
        ours = False
    if not ours:
        refuse("folder", f"{str(target)!r} exists, and this tool did not write it",
               "a run without it, or with an earlier page of this tool, which is replaced")


def check_images(split: Split, past: History) -> None:
    """UserError where the run was tested on other images, or on a single one."""
    names = ["testing"] if split.gallery is None else ["testing_query", "testing_gallery"]
    for name, loader in zip(names, split.loaders, strict=True):
        n_images, digest, *_ = past.data.get(name, (0, None))
        if digest not in (None, loader.dataset.digest):
            refuse("--source_path", f"the {name} images are not those of the run: {n_images:,} "
                   f"then, {len(loader.dataset.listed[0]):,} now, or other names", "the same files")
    if split.gallery is None and len(split.own) == 1:
        refuse("folder", "the run was tested on one image, which has no neighbours",
               "a run with two test images or more")


def about(folder: Path, options: Mapping[str, Any], past: History, evaltype: str
          ) -> dict[str, Any]:
    """What the page says of the run itself."""
    metric, flags = options["storage_metrics"][0], parameters.FLAGS
    values = {name: words(options[name]) or "none" for name in sorted(flags)
              if name != "wandb_key"}
    given = [name for name in options["given"]
             if name in values and options[name] != flags[name].default]
    return {"run": folder.resolve().name, "dataset": options["dataset"], "evaltype": evaltype,
            "metric": metric, "epoch": past.epoch_of_best(evaltype, metric),
            "epochs": past.epochs, "n_epochs": options["n_epochs"], "minutes": past.minutes,
            "given": [[f"--{name}", values[name]] for name in given],
            "options": [[f"--{name}", value] for name, value in values.items()],
            "curves": past.curves, "tables": past.tables,
            "environment": history.environment(folder)}


class Found:
    """What the embeddings `points` of the loaders of a split show: its nearest neighbours, and what
    follows from them.

    labels (N,), of the queries; among (M,), of the images to search in; neighbours and distances
    (N, k): their rows and how far they are, nearest first; precision (N,): R-precision, NaN for
    queries that have nothing to find; thumbnails: {(path, box): number} of the images to show.
    """

    def __init__(self, split: Split, points: list[Tensor]):
        self.split, self.labels, self.among = split, split.labels[0], split.labels[-1]
        self.measured, (distances, rows) = score(per_class.METRICS, split, points,
                                                 points[0].device)
        self.classes = per_class.rows("", split, self.measured.scores, rows)
        self.distances, self.neighbours = distances.cpu().numpy(), rows.cpu().numpy()
        self.precision = self.measured.scores["r_precision"].cpu().numpy()
        self.points = [side.cpu() for side in points]
        self.thumbnails: dict[tuple, int] = {}

    def content(self, method: str) -> dict[str, Any]:
        """The part of the page that depends on images."""
        worst = worst_queries(self.split, self.distances, self.neighbours, N_WORST + N_FURTHER)
        mixed = np.random.default_rng(0).permutation(len(self.labels))
        random = in_turn(mixed, self.labels)[:N_RANDOM]
        shown = {"random": self.retrievals(random), "worst": self.retrievals(worst[:N_WORST])}
        pairs, n_pairs = self.pairs()
        shown["further"] = self.retrievals(worst[N_WORST:])     # the last, which may be left out
        place = {name: label for label, name in enumerate(self.names)}
        classes = [[images, queries, *(float(mean) if mean else None for mean in means),
                    place.get(other), times]
                   for _, _, _, images, queries, *means, other, times in self.classes]
        return {"counts": self.split.counts, "means": self.measured.values, "names": self.names,
                "classes": classes, "pairs": pairs, "n_pairs": n_pairs, "retrievals": shown,
                "images": thumbnails.each([path for path, _ in self.thumbnails], SIDE),
                "map": self.map(method)}

    @property
    def names(self) -> list[str]:
        return self.split.queries.dataset.class_names

    def thumbnail(self, path: str) -> int:
        """The number of the image on the page."""
        return self.thumbnails.setdefault((path, box_of(path)), len(self.thumbnails))

    def retrievals(self, queries: np.ndarray) -> list[dict[str, Any]]:
        """The queries (n,) with their nearest neighbours as [image, label, distance, file]."""
        paths, among = self.split.queries.dataset.paths, self.split.loaders[-1].dataset.paths
        return [{"image": self.thumbnail(paths[query]), "label": int(self.labels[query]),
                 "file": short(paths[query]), "precision": float(self.precision[query]),
                 "neighbours": [[self.thumbnail(among[row]), int(self.among[row]),
                                 float(f"{distance:.4g}"), short(among[row])]
                                for row, distance in zip(near, far, strict=True)]}
                for query, near, far in retrieved(queries, self.distances, self.neighbours)]

    def pairs(self) -> tuple[list[list], int]:
        """[label, other, how often it is taken for the other, how often the other for it, an image
        of it, the image of the other that is nearest to that] of the N_PAIRS that are most often
        taken for each other, and how many such pairs there are."""
        nearest, both = self.neighbours[:, 0], {}
        for label, other, times in per_class.confusions(self.labels, self.among[nearest]):
            both.setdefault((min(label, other), max(label, other)), {})[label] = times
        most = sorted(both.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))[:N_PAIRS]
        listed = []
        for pair, times in most:
            one, other = sorted(pair, key=lambda label: -times.get(label, 0))
            taken = np.flatnonzero((self.labels == one) & (self.among[nearest] == other))
            query = taken[self.distances[taken, 0].argmin()]
            listed.append([one, other, times[one], times.get(other, 0),
                           self.thumbnail(self.split.queries.dataset.paths[query]),
                           self.thumbnail(self.split.loaders[-1].dataset.paths[nearest[query]])])
        return listed, len(both)

    def map(self, method: str) -> dict[str, Any]:
        """Up to MOST_ON_MAP images, evenly spaced, with their coordinates, the queries first; right
        says whether a query's nearest image is of its class, None where it is no query."""
        paths, labels, points = self.split.union(self.points)
        right = (self.among[self.neighbours[:, 0]] == self.labels).tolist()
        right += [None] * (len(paths) - len(right))
        chosen = spaced(np.arange(len(paths)), MOST_ON_MAP)
        flat = project(points[torch.from_numpy(chosen)], method)
        image, columns = thumbnails.sheet([paths[row] for row in chosen], TILE)
        return {"method": method, "of": len(paths), "sheet": image, "columns": columns,
                "side": TILE, "points": [[float(f"{x:.4g}"), float(f"{y:.4g}"), int(labels[row]),
                                          right[row], short(paths[row])]
                                         for (x, y), row in zip(flat, chosen, strict=True)]}


def short(path: str) -> str:
    """The file and its folder."""
    return "/".join(Path(path).parts[-2:])


def fitted(content: dict[str, Any], limit: int = LIMIT) -> tuple[bytes, list[str]]:
    """The page, and what was left out of it so that it takes at most `limit` bytes: further
    retrievals, which only the filter shows, those of the best queries first."""
    left_out: list[str] = []
    further, images = content["retrievals"]["further"], content["images"]
    n = len(further)
    while len(page := rendered(content | {"left_out": left_out})) > limit and further:
        del further[-max(1, n // 10):]
        del images[1 + max(numbers(content), default=-1):]
        left_out[:] = [f"Left out {n - len(further)} of {n} further retrievals, so that the page "
                       f"stays below {limit / 1e6:g} MB."]
    return page, left_out


def numbers(content: dict[str, Any]) -> list[int]:
    """The numbers of the images that the page shows outside of the map."""
    rows = [row for part in content["retrievals"].values() for row in part]
    return [*(row["image"] for row in rows), *(entry[0] for row in rows
                                               for entry in row["neighbours"]),
            *(image for pair in content["pairs"] for image in pair[-2:])]


def rendered(content: dict[str, Any]) -> bytes:
    """The page. Text of the run cannot end the JSON that holds it, since that has no "<"."""
    part = {path.name: path.read_text(encoding="utf-8") for path in PARTS.iterdir()}
    data = json.dumps(plain(content), ensure_ascii=False, separators=(",", ":"))
    title = html.escape(f"{content['run']} on {content['dataset']}")
    page = Template(part["page.html"]).substitute(
        title=title, style=part["style.css"], script=part["page.js"],
        data=data.replace("<", "\\u003c"))
    return page.encode(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
