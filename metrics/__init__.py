"""Metrics: features (N, D), labels (N,) -> a number.

`METRICS` are the families; a metric's name is a family, for some with an argument (`e_recall@4`),
whose form is in `ARGUMENTS`. Families with a leading `c_` measure the L2-normalised features.

A metric is a module with a pure function of what `TAKES` names:
"ranks": `scores(ranking, variant)` -> (b,) of a block of queries, whose mean is the metric's value
(NaN leaves a query out), and `depth(variant, class_size)`, how many neighbours it looks at;
"assignment": `measure(assignment, labels)` of a k-means clustering;
"centroids": as "ranks", of the centroids nearest to each query;
"features": `measure(features, labels, variant)`.
The variant is the argument, or the family without `c_` where it takes none.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from utilities import registry
from utilities.errors import refuse

if TYPE_CHECKING:
    from torch import Tensor

METRICS = {
    "e_recall": "metrics.recall",
    "c_recall": "metrics.recall",
    "a_recall": "metrics.a_recall",
    "nmi": "metrics.nmi",
    "c_nmi": "metrics.nmi",
    "f1": "metrics.f1",
    "c_f1": "metrics.f1",
    "mAP": "metrics.average_precision",
    "c_mAP": "metrics.average_precision",
    "mAP_c": "metrics.average_precision",
    "c_mAP_c": "metrics.average_precision",
    "mAP_1000": "metrics.average_precision",
    "c_mAP_1000": "metrics.average_precision",
    "mAP_lim": "metrics.average_precision",
    "c_mAP_lim": "metrics.average_precision",
    "mAP_r": "metrics.average_precision",
    "c_mAP_r": "metrics.average_precision",
    "r_precision": "metrics.r_precision",
    "c_r_precision": "metrics.r_precision",
    "dists": "metrics.dists",
    "rho_spectrum": "metrics.rho_spectrum",
}
_POSITIVE = (r"[1-9]\d*", "a positive whole number")
_WHOLE = (r"0|-?[1-9]\d*", "a whole number")
_DISTANCE = (r"intra|inter|intra_over_inter", "intra, inter or intra_over_inter")
ARGUMENTS = {"e_recall": _POSITIVE, "c_recall": _POSITIVE, "a_recall": _POSITIVE,
             "dists": _DISTANCE, "rho_spectrum": _WHOLE}
CLUSTERED = {"a_recall", "nmi", "c_nmi", "f1", "c_f1"}
DESCRIPTIVE = {"dists", "rho_spectrum"}     # properties of the embedding space, no scores


def parse(name: str, flag: str = "--evaluation_metrics") -> tuple[str, str | int | None]:
    """"e_recall@4" -> ("e_recall", 4), "dists@intra" -> ("dists", "intra"), "nmi" -> ("nmi", None).

    UserError, naming `flag`, for a name that is no metric.
    """
    family, at, argument = str(name).partition("@")
    registry.check(family, METRICS, flag=flag)
    if family not in ARGUMENTS:
        if at:
            refuse(flag, f"{name!r}: {family} takes nothing behind an @", family)
        return family, None
    pattern, wanted = ARGUMENTS[family]
    if not re.fullmatch(pattern, argument, re.ASCII):
        refuse(flag, f"{name!r} is no metric", f"{family}@ and {wanted}")
    return family, argument if ARGUMENTS[family] is _DISTANCE else int(argument)


def needs_clusters(name: str) -> bool:
    """Whether `name` needs a k-means clustering."""
    return parse(name)[0] in CLUSTERED


def is_array(name: str) -> bool:
    """Whether `name` gives an array, which is logged as a histogram, and not a number."""
    return parse(name) == ("rho_spectrum", 0)


def is_score(name: str) -> bool:
    """Whether a larger value of `name` is a better one."""
    return parse(name)[0] not in DESCRIPTIVE


def n_singular_values(name: str) -> int:
    """How many singular values of the features `name` needs to be defined."""
    family, argument = parse(name)
    return abs(argument) if family == "rho_spectrum" else 0


class Metric(NamedTuple):
    """`name` is measured by `module`, in its form `variant`, of L2-normalised features or not."""

    name: str
    module: ModuleType
    variant: str | int
    normalized: bool

    @property
    def takes(self) -> str:
        return self.module.TAKES


def select(name: str) -> Metric:
    """The metric called `name`; UserError for a name that does not exist."""
    family, argument = parse(name)
    form = family.removeprefix("c_")
    module = registry.load(METRICS, family, flag="--evaluation_metrics")
    return Metric(name, module, form if argument is None else argument, form != family)


def compute(names: list[str], features: Tensor, labels: Tensor, *,
            gallery: tuple[Tensor, Tensor] | None = None, own: Tensor | None = None,
            neighbours: tuple[Tensor, Tensor] | None = None,
            clusters: tuple[Tensor, Tensor] | None = None, device=None) -> dict[str, float]:
    """{name: value} of every metric in `names`, which share one neighbour search and one k-means.

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
    from metrics import measuring

    return measuring.measure([select(name) for name in names], features, labels, gallery=gallery,
                             own=own, neighbours=neighbours, clusters=clusters, device=device)


def knn(queries: Tensor, gallery: Tensor | None, k: int, *, own: Tensor | None = None, device=None
        ) -> tuple[Tensor, Tensor]:
    """Distances (N, k) float32 and indices (N, k) int64 of the k nearest rows of the gallery.

    queries (N, D), gallery (M, D) floating point, tensors or arrays; gallery None: among the
    queries, leaving each out by its index. Exact and Euclidean, nearest first; equal distances are
    ordered by index. k is reduced to the number of rows that exist. own (N,) integers: the row of
    the gallery that is the query itself, -1 where it holds none; it comes last, at an infinite
    distance, and so only where k is M. device: where to search and where the result lies, by
    default where the queries lie. TrainingError as in `compute`.
    """
    from metrics import neighbours

    return neighbours.nearest(queries, gallery, k, own=own, device=device)


def depth(names: list[str], labels: Tensor, gallery_labels: Tensor | None = None) -> int:
    """How many neighbours of each query `compute` needs for `names`.

    labels (N,), gallery_labels (M,) integers. Metrics that need very many rank the whole gallery
    instead and do not count.
    """
    from metrics import measuring

    return measuring.table_depth([select(name) for name in names], labels, gallery_labels)


def n_without_positive(labels: Tensor, gallery_labels: Tensor | None = None,
                       own: Tensor | None = None) -> int:
    """How many queries have no other image of their class to find.

    labels (N,), gallery_labels (M,) integers; own: as in `compute`. Such a query is a miss in
    recall, mAP, mAP_c, mAP_1000 and mAP_lim, and left out of mAP_r and r_precision.
    """
    from metrics import measuring

    return measuring.n_without_positive(labels, gallery_labels, own)
