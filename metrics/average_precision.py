"""Mean average precision over several numbers of neighbours.

    AP(q) = 1/R sum_{i=1..n} P@i [the i-th neighbour is of q's class]

R is the size of q's class in the gallery. Where the queries are the gallery, R counts q itself, so
a perfect ranking scores (R - 1)/R, as in the original. n is R for `mAP_c`, 1,000 for `mAP_1000`,
min(1023, N) for `mAP_lim`, and the whole ranking for `mAP`.

`mAP_r` is MAP@R of "A Metric Learning Reality Check" (Musgrave et al. 2020, arXiv 2003.08505): n
and R are both the number of other images of the class, so a perfect ranking scores 1; a query whose
class has no other image is left out of the mean. In the other forms it counts as a miss.
"""

import sys

import torch
from torch import Tensor

from metrics.ranking import Ranking

TAKES = "ranks"
LIMITS = {"mAP_1000": 1000, "mAP_lim": 1023, "mAP": sys.maxsize}


def depth(form: str, class_size: int) -> int:
    """How many neighbours to look at; class_size: the largest in the gallery."""
    return LIMITS.get(form, class_size)


def scores(ranking: Ranking, form: str) -> Tensor:
    """(b,) float32, the average precision of each query; NaN where it is left out of the mean."""
    size = ranking.relevant if form == "mAP_r" else ranking.class_size
    limit = LIMITS[form] if form in LIMITS else size[:, None]
    hits_until = torch.arange(1, ranking.ranks.shape[1] + 1, device=ranking.ranks.device)
    precision = torch.where(ranking.ranks <= limit, hits_until / ranking.ranks, 0.0)
    average = precision.sum(1) / size.clamp(min=1)
    return average.where(size > 0, torch.nan) if form == "mAP_r" else average
