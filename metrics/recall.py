"""Recall@k (Jegou et al. 2011; Oh Song et al. 2016, arXiv 1511.06452).

    R@k = 1/N sum_q [a member of q's class is among the k nearest neighbours of q]

`e_recall` by Euclidean distance, `c_recall` the same between L2-normalised features. A query never
finds itself: it is left out by its index. (The original drops the nearest neighbour, which is
another image where features are duplicated.)
"""

from torch import Tensor

from metrics import base
from metrics.ranking import Ranking


class Metric(base.Retrieval):
    requires = ("target_labels", "k_closest_classes")

    def depth(self, class_size: int, n_gallery: int) -> int:
        return self.argument

    def score(self, ranking: Ranking) -> Tensor:
        return (ranking.ranks[:, :1] <= self.argument).any(1).float()
