"""Recall@k (Jegou et al. 2011; Oh Song et al. 2016, arXiv 1511.06452).

    R@k = 1/N sum_q [a member of q's class is among the k nearest neighbours of q]

`e_recall` by Euclidean distance, `c_recall` the same between L2-normalised features. A query never
finds itself: it is left out by its index. (The original drops the nearest neighbour, which is
another image where features are duplicated.) A query that is alone in its class counts as a miss.
"""

from torch import Tensor

from metrics.ranking import Ranking

TAKES = "ranks"


def depth(k: int, class_size: int) -> int:
    """How many neighbours to look at; class_size: the largest in the gallery."""
    return k


def scores(ranking: Ranking, k: int) -> Tensor:
    """(b,) float32, the recall of each query."""
    return (ranking.ranks[:, :1] <= k).any(1).float()
