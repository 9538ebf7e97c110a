"""`--per_class`: of each class how many images it has, its recall and R-precision, and the class
for which it is most often taken: of the others, the one whose images are most often nearest to its
queries.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from utilities.logger import csv_text

METRICS = ("e_recall@1", "r_precision")     # what the list needs
COLUMNS = ("evaltype", "split", "class", "images", "queries", *METRICS, "taken_for", "times")
Row = tuple[str | int, ...]


def rows(evaltype: str, split, scores: dict[str, Tensor], neighbours: Tensor) -> list[Row]:
    """The COLUMNS of each class of `split`; means without a query that counts are empty.

    scores {metric: (N,)} of each query, NaN where it is left out; neighbours (N, k): rows of the
    images to search in, nearest first. `times` counts the queries that are taken for that class; of
    equals the first class stands.
    """
    names, labels, among = split.queries.dataset.class_names, split.labels[0], split.labels[-1]
    n = len(names)
    images = np.bincount(among, minlength=n) + np.bincount(labels[split.own < 0], minlength=n)
    queries = np.bincount(labels, minlength=n)
    means = [by_class(scores[metric].cpu().numpy(), labels, n) for metric in METRICS]
    nearest = neighbours.cpu().numpy()[:, :1]       # (N, 0) where there is a single image
    taken = mistaken(labels, among[nearest[:, 0]]) if nearest.size else {}
    listed = []
    for label, name in enumerate(names):
        other, times = taken.get(label, (None, 0))
        listed.append((evaltype, split.name, name, int(images[label]), int(queries[label]),
                       *("" if np.isnan(mean[label]) else f"{mean[label]:.6f}" for mean in means),
                       "" if other is None else names[other], times))
    return listed


def by_class(scores: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """(n,) the mean of the scores (N,) of each label, without those that are NaN; NaN without
    any."""
    counts = ~np.isnan(scores)
    total = np.bincount(labels, np.where(counts, scores, 0), minlength=n)
    with np.errstate(invalid="ignore"):
        return total / np.bincount(labels, counts, minlength=n)


def mistaken(labels: np.ndarray, nearest: np.ndarray) -> dict[int, tuple[int, int]]:
    """{label: (the other label that is most often `nearest` (N,), how often)}."""
    taken: dict[int, tuple[int, int]] = {}
    for label, other, times in confusions(labels, nearest):
        if times > taken.get(label, (None, 0))[1]:
            taken[label] = other, times
    return taken


def confusions(labels: np.ndarray, nearest: np.ndarray) -> list[tuple[int, int, int]]:
    """(label, other, how often the other is `nearest` (N,)) of each pair where it is so at all, by
    label, then by other."""
    wrong = labels != nearest
    pairs, counts = np.unique(np.stack([labels[wrong], nearest[wrong]]), axis=1,
                              return_counts=True)
    return list(zip(*pairs.tolist(), counts.tolist(), strict=True))


def as_csv(listed: Sequence[Row]) -> str:
    """COLUMNS and the rows as the text of a CSV file."""
    return csv_text([COLUMNS, *listed])
