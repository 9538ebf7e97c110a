"""R-precision ("A Metric Learning Reality Check", Musgrave et al. 2020, arXiv 2003.08505).

    RP(q) = 1/R #{i <= R : the i-th neighbour is of q's class}

R is the number of other images of q's class; a query without one is left out of the mean.
"""

from torch import Tensor

from metrics import base
from metrics.ranking import Ranking


class Metric(base.Retrieval):
    def depth(self, class_size: int, n_gallery: int) -> int:
        return class_size

    def score(self, ranking: Ranking) -> Tensor:
        found = (ranking.ranks <= ranking.relevant[:, None]).sum(1)
        return found / ranking.relevant.clamp(min=1)

    def counted(self, ranking: Ranking) -> Tensor:
        return ranking.relevant > 0
