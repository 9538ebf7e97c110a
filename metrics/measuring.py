"""From features and labels to the values of metrics, which share neighbours and clusters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics import Metric, a_recall, ranking, select
from metrics.neighbours import as_points, knn
from utilities.clustering import k_means

# The most neighbours of a query in a table. Where a metric looks at more, ranking the whole gallery
# takes less time (on a CPU with 20,000 images: 11 s against 56 s for 1,000 neighbours) and memory.
DEEPEST_TABLE = 128


class Data(NamedTuple):
    """queries (N, D) float32 and their labels (N,) int64; the gallery (M, D) to search in and its
    labels (M,), both None where queries are searched among themselves; own (N,) int64: the row of
    the gallery that is the query itself, -1 for none, or None where no query is in the gallery."""

    queries: Tensor
    labels: Tensor
    gallery: Tensor | None = None
    gallery_labels: Tensor | None = None
    own: Tensor | None = None

    def union(self) -> tuple[Tensor, Tensor]:
        """Features and labels of all images: the queries, then those that only the gallery has."""
        if self.gallery is None:
            return self.queries, self.labels
        rest = torch.ones_like(self.gallery_labels, dtype=torch.bool)
        if self.own is not None:
            rest[self.own[self.own >= 0]] = False
        return (torch.cat([self.queries, self.gallery[rest]]),
                torch.cat([self.labels, self.gallery_labels[rest]]))

    def is_unit(self) -> bool:
        return all(bool(((side.norm(dim=1) - 1).abs() < 1e-5).all())
                   for side in (self.queries, self.gallery) if side is not None)

    def normalized(self) -> Data:
        return self._replace(queries=F.normalize(self.queries),
                             gallery=None if self.gallery is None else F.normalize(self.gallery))


class Measured(NamedTuple):
    """`values` {name: value} of every metric, and `scores` {name: (N,) float32} of each query, of
    the metrics that are means over the queries; NaN where a query is left out."""

    values: dict[str, float]
    scores: dict[str, Tensor]

    def of(self, rows: Tensor) -> dict[str, float]:
        """{name: mean} over the queries `rows`, integers or (N,) bool."""
        return {name: mean(scores[rows.to(scores.device)]) for name, scores in self.scores.items()}


def compute(names: Sequence[str], features: Tensor, labels: Tensor, **given) -> dict[str, float]:
    """{name: value} of every metric in `names`: the values of `measure`, with its arguments."""
    return measure(names, features, labels, **given).values


@torch.no_grad()
def measure(names: Sequence[str], features: Tensor, labels: Tensor, *,
            gallery: tuple[Tensor, Tensor] | None = None, own: Tensor | None = None,
            neighbours: tuple[Tensor, Tensor] | None = None,
            clusters: tuple[Tensor, Tensor] | None = None, device=None) -> Measured:
    """Every metric in `names`, which share one neighbour search and one k-means.

    features (N, D) floating point, labels (N,) integers, both tensors or arrays.
    gallery: (features (M, D), labels (M,)), in which the neighbours of all `features` are searched;
    clusters, distances and the spectrum are measured on the union, `features` first. Without it
    neighbours are searched among the features, where none is its own neighbour.
    own (N,) integers: the row of the gallery that is the query itself, -1 where it holds none. That
    row is left out of the query's neighbours, and is in the union once, as a query.
    neighbours: the result of `knn` for these features, used by the metrics of features that are not
    L2-normalised if it holds enough neighbours for them.
    clusters: centroids (K, D) and the cluster of each image of the union, used instead of k-means,
    also for the L2-normalised features.
    device: where to compute, by default where the features lie.
    Arrays (`is_array`) are NumPy arrays. TrainingError when features are not finite, or so large
    that float32 does not hold their squared distances.
    """
    selected = [select(name) for name in names]
    queries = as_points(features, device)
    device = queries.device
    data = Data(queries, _integers(labels, device))
    if gallery is not None:
        data = data._replace(gallery=as_points(gallery[0], device),
                             gallery_labels=_integers(gallery[1], device))
        if own is not None:
            data = data._replace(own=_integers(own, device))
            _check_rows("own", data.own, len(queries))
    if neighbours is not None:
        neighbours = torch.as_tensor(neighbours[1]).to(device)
        _check_rows("neighbours", neighbours, len(queries))
    if clusters is not None:
        clusters = as_points(clusters[0], device), _integers(clusters[1], device)
        _check_rows("clusters", clusters[1], len(data.union()[1]))
    cosine = [metric for metric in selected if metric.normalized]
    if not cosine or data.is_unit():
        values = _measure(selected, data, neighbours, clusters)
    else:
        plain = [metric for metric in selected if not metric.normalized]
        values = _measure(plain, data, neighbours, clusters)
        values |= _measure(cosine, data.normalized(), None, clusters)
    scores = {metric.name: values[metric.name] for metric in selected
              if metric.takes in ("ranks", "centroids")}
    numbers = values | {name: mean(of_queries) for name, of_queries in scores.items()}
    return Measured({metric.name: numbers[metric.name] for metric in selected}, scores)


def mean(scores: Tensor) -> float:
    """The mean of scores (n,) over the queries that count, 0 without any."""
    return float(scores.double().nanmean().nan_to_num())


def depth(names: Sequence[str], labels: Tensor, gallery_labels: Tensor | None = None) -> int:
    """How many neighbours of each query a table needs so that `compute` can use it for `names`.

    labels (N,), gallery_labels (M,) integers. Metrics that look at more than DEEPEST_TABLE
    neighbours rank the whole gallery and need no table.
    """
    among = _integers(labels if gallery_labels is None else gallery_labels, "cpu")
    by_ranks = [metric for metric in map(select, names) if metric.takes == "ranks"]
    depths = _depths(by_ranks, among, len(among) - int(gallery_labels is None)).values()
    return max((wanted for wanted in depths if wanted <= DEEPEST_TABLE), default=0)


def n_without_positive(labels: Tensor, gallery_labels: Tensor | None = None,
                       own: Tensor | None = None) -> int:
    """How many queries have no other image of their class to find.

    labels (N,), gallery_labels (M,) integers; own: as in `measure`. Such a query is a miss in
    recall, mAP, mAP_c, mAP_1000 and mAP_lim, and left out of mAP_r and r_precision.
    """
    labels = _integers(labels, "cpu")
    gallery_labels = None if gallery_labels is None else _integers(gallery_labels, "cpu")
    return int((ranking.Classes.count(labels, gallery_labels, own).relevant == 0).sum())


def _depths(selected: Iterable[Metric], gallery_labels: Tensor, most: int) -> dict[Metric, int]:
    """How many neighbours each metric looks at, out of `most`."""
    largest = int(gallery_labels.unique(return_counts=True)[1].max())
    return {metric: min(metric.module.depth(metric.variant, largest), most) for metric in selected}


def _integers(labels, device) -> Tensor:
    return torch.as_tensor(labels).to(device, torch.int64).reshape(-1)


def _check_rows(name: str, given: Tensor, n: int) -> None:
    if len(given) != n:
        raise ValueError(f"{name}: of {len(given)} images given; accepted: of {n}, as features are")


def _measure(selected: Sequence[Metric], data: Data, neighbours: Tensor | None,
             clusters: tuple[Tensor, Tensor] | None) -> dict:
    """{name: value, or each query's score (N,)} of the features in `data` as they are. neighbours
    (N, k): indices, if known."""
    taking = {kind: [metric for metric in selected if metric.takes == kind]
              for kind in ("ranks", "centroids", "assignment", "features")}
    values = _retrieval(taking["ranks"], data, neighbours)
    features, labels = data.union()
    if taking["centroids"] or taking["assignment"]:
        centroids, assignment = clusters or k_means(features, len(labels.unique()))
        for metric in taking["assignment"]:
            values[metric.name] = metric.module.measure(assignment, labels)
        carried = a_recall.carried_labels(assignment, labels, len(centroids))
        in_centroids = Data(data.queries, data.labels, centroids, carried)
        values |= _retrieval(taking["centroids"], in_centroids, None)
    for metric in taking["features"]:
        values[metric.name] = metric.module.measure(features, labels, metric.variant)
    return values


def _retrieval(selected: Sequence[Metric], data: Data, indices: Tensor | None) -> dict:
    """{name: each query's score (N,)} of retrieval metrics. One table of neighbours serves all but
    the deepest, which rank the whole gallery. indices (N, k): a table to use if deep enough."""
    if not selected:
        return {}
    classes = ranking.Classes.count(data.labels, data.gallery_labels, data.own)
    n_others = len(classes.gallery) - int(data.gallery is None)
    depths = _depths(selected, classes.gallery, n_others)
    most = max(DEEPEST_TABLE, 0 if indices is None else indices.shape[1])
    near = [metric for metric in selected if depths[metric] <= most]
    far = [metric for metric in selected if depths[metric] > most]
    values = {}
    if near:
        deepest = max(depths[metric] for metric in near)
        if indices is None or indices.shape[1] < deepest:
            _, indices = knn(data.queries, data.gallery, deepest, own=data.own)
        values |= _scores(near, ranking.in_table(indices, classes))
    if far:
        values |= _scores(far, ranking.in_gallery(data.queries, data.gallery, classes))
    return values


def _scores(selected: Sequence[Metric], rankings: Iterable[ranking.Ranking]) -> dict[str, Tensor]:
    """{name: each query's score (N,)}."""
    scores: dict[str, list[Tensor]] = {metric.name: [] for metric in selected}
    for block in rankings:
        for metric in selected:
            scores[metric.name].append(metric.module.scores(block, metric.variant))
    return {name: torch.cat(parts) for name, parts in scores.items()}
