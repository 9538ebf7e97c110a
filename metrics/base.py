"""What a metric is: a name, what it needs, and one method.

A metric of neighbours (`Retrieval`) is a mean over queries of a score that follows from the ranks
of the images of the query's class. Every other metric (`Metric`) looks at the whole split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from metrics.ranking import Ranking
    from metrics.split import Split


class Metric:
    """family: the name without its argument; a leading `c_` measures L2-normalised features.

    `requires` lists what `metric(**given)` has to be given, out of
    features (N, D) floating point;
    target_labels (N,) integers;
    k_closest_classes (N, k): classes of the nearest neighbours, nearest first, the query left out;
    centroids (K, D) and computed_cluster_labels (N,) or (N, 1): a clustering of the features.
    What depends on the normalised features is found from `features`.
    """

    requires: tuple[str, ...] = ("features", "target_labels")

    def __init__(self, family: str, argument: str | int | None = None):
        self.name = family if argument is None else f"{family}@{argument}"
        self.argument = argument
        self.form = family.removeprefix("c_")
        self.normalized = self.form != family
        if self.normalized:
            self.requires = Metric.requires

    def measure(self, split: Split) -> float:
        """The value on `split`, whose features are normalised already if they should be."""
        raise NotImplementedError

    def __call__(self, **given) -> float:
        """The value for `given`, which holds at least what `requires` lists."""
        from metrics.split import Split

        given = {name: given[name] for name in self.requires}
        split = Split(given.pop("features", None), given.pop("target_labels", None), **given)
        return split.measure([self])[self.name]


class Retrieval(Metric):
    """A mean over queries of a score, for which `depth` neighbours are enough."""

    def depth(self, class_size: int, n_gallery: int) -> int:
        """How many neighbours to look at; class_size: the largest in the gallery."""
        raise NotImplementedError

    def score(self, ranking: Ranking) -> Tensor:
        """(b,) float32."""
        raise NotImplementedError

    def counted(self, ranking: Ranking) -> Tensor:
        """(b,) bool: the queries over which the mean is taken."""
        return torch.ones_like(ranking.relevant, dtype=torch.bool)

    def measure(self, split: Split) -> float:
        return split.retrieval([self])[self.name]
