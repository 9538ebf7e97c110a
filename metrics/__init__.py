"""Metrics: features (N, D), labels (N,) -> a number.

`METRICS` are the families; a name is a family, for some with an argument (`e_recall@4`). A leading
`c_` measures the L2-normalised features. `ARGUMENTS` says what may stand behind the @.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from utilities import registry
from utilities.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    # k -> blocks of (rows (b,), their k nearest (b, k)), or None where that would not be cheaper
    Search = Callable[[int], Iterator[tuple[Tensor, Tensor]] | None]

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
            raise UserError(f"{flag}: {name!r}: {family} takes nothing behind an @; "
                            f"accepted: {family}")
        return family, None
    pattern, wanted = ARGUMENTS[family]
    if not re.fullmatch(pattern, argument, re.ASCII):
        raise UserError(f"{flag}: {name!r} is no metric; accepted: {family}@ and {wanted}")
    return family, argument if ARGUMENTS[family] is _DISTANCE else int(argument)


def needs_clusters(name: str) -> bool:
    """Whether `name` costs a k-means."""
    return parse(name)[0] in CLUSTERED


def is_array(name: str) -> bool:
    """Whether `name` gives an array: a histogram to log, no number to compare or to draw."""
    return parse(name) == ("rho_spectrum", 0)


def is_score(name: str) -> bool:
    """Whether a larger value of `name` is a better one."""
    return parse(name)[0] not in DESCRIPTIVE


def select(name: str):
    """The metric called `name`; UserError for a name that does not exist."""
    family, argument = parse(name)
    return registry.load(METRICS, family, flag="--evaluation_metrics").Metric(family, argument)


def compute(names: list[str], features: Tensor, labels: Tensor, *,
            gallery: tuple[Tensor, Tensor] | None = None, device=None,
            search: Search | None = None) -> dict[str, float]:
    """{name: value} of every metric in `names`; neighbours and clusters are found once, for all.

    features (N, D) floating point, labels (N,) int64, both tensors or arrays on any device.
    gallery: (features (M, D), labels (M,)); the neighbours of `features` are then looked for there
    and nothing is left out, while what is no retrieval (clusters, distances, spectrum) is measured
    on the union. Without it, among the features themselves, each but itself.
    device: where to search and cluster, the CPU by default. search: one of `searches`, instead of
    a search of its own for what does not normalise the features. Arrays (`is_array`) are NumPy
    arrays. UserError when features are not finite.
    """
    from metrics.split import Split

    split = Split(features, labels, gallery=gallery, device=device, search=search)
    return split.measure(map(select, names))


def searches(points: Tensor, weights: dict[str, Tensor]) -> dict[str, Search]:
    """For each name what finds neighbours among `points * weights[name]`, to hand to `compute`.

    points (N, D) float32; weights (D,) each, on the points' device, equal over many columns, as
    they are over those of a head. On the CPU the first search finds the neighbours of all, and the
    matrix products are those of one.
    """
    from metrics.neighbours import Together

    together = Together(points, weights)
    return {name: partial(together.search, name) for name in weights}
