"""R-precision ("A Metric Learning Reality Check", Musgrave et al. 2020, arXiv 2003.08505).

    RP(q) = 1/R #{i <= R : the i-th neighbour is of q's class}

R is the number of other images of q's class; a query without one is left out of the mean.
"""

import torch
from torch import Tensor

from metrics.ranking import Ranking

TAKES = "ranks"


def depth(form: str, class_size: int) -> int:
    """How many neighbours to look at; class_size: the largest in the gallery."""
    return class_size


def scores(ranking: Ranking, form: str) -> Tensor:
    """(b,) float32, the precision of each query; NaN where it is left out of the mean."""
    hits = (ranking.ranks <= ranking.relevant[:, None]).sum(1)
    return (hits / ranking.relevant).where(ranking.relevant > 0, torch.nan)
