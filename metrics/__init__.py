"""Metrics: features (N, D), labels (N,) -> a number.

A metric's name is that of a family in `METRICS`, with an argument where `ARGUMENTS` says so
(`e_recall@4`). Families with a leading `c_` measure the L2-normalised features.

A metric is a module with a pure function of what `TAKES` names:
"ranks": `scores(ranking, variant)` -> (b,) of a block of queries, whose mean is the metric's value
(NaN leaves a query out), and `depth(variant, class_size)`, how many neighbours it looks at;
"assignment": `measure(assignment, labels)` of a k-means clustering;
"centroids": as "ranks", of the centroids nearest to each query;
"features": `measure(features, labels, variant)`.
The variant is the argument, or the family without `c_` where it takes none.
"""

import importlib
import re
from types import ModuleType
from typing import NamedTuple

from utilities import registry
from utilities.errors import refuse

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
_POSITIVE = (r"[1-9]\d{0,8}", "a positive whole number below 1e9")
_WHOLE = (r"0|-?[1-9]\d{0,8}", "a whole number between -1e9 and 1e9")
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


# Functions that need torch, which is imported when one of them is first used.
DEFINED_IN = dict.fromkeys(("Measured", "compute", "depth", "measure", "n_without_positive"),
                           "metrics.measuring") | {"knn": "metrics.neighbours"}


def __getattr__(name: str):
    if name not in DEFINED_IN:
        raise AttributeError(f"module 'metrics' has no attribute {name!r}")
    return getattr(importlib.import_module(DEFINED_IN[name]), name)
