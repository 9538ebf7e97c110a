"""Mean average precision over several numbers of neighbours.

    AP(q) = 1/R sum_{i=1..n} P@i [the i-th neighbour is of q's class]

R is the size of q's class, q itself counted (without it in a gallery apart from the queries), so a
perfect ranking scores (R - 1)/R, as in the original. n is
R for `mAP_c`, 1,000 for `mAP_1000`, min(1023, N) for `mAP_lim`, the whole ranking for `mAP`.

`mAP_r` is MAP@R of "A Metric Learning Reality Check" (Musgrave et al. 2020, arXiv 2003.08505): n
and R are both the number of other images of the class, so a perfect ranking scores 1; a query whose
class has no other image cannot find one and is left out of the mean.
"""

import torch
from torch import Tensor

from metrics import base
from metrics.ranking import Ranking

LIMITS = {"mAP_1000": 1000, "mAP_lim": 1023, "mAP": float("inf")}


class Metric(base.Retrieval):
    def depth(self, class_size: int, n_gallery: int) -> int:
        return int(min(LIMITS.get(self.form, class_size), n_gallery))

    def score(self, ranking: Ranking) -> Tensor:
        size = ranking.relevant if self.form == "mAP_r" else ranking.class_size
        limit = LIMITS.get(self.form)
        if limit is None:
            limit = size[:, None]
        return ranking.precision_sum(limit) / size.clamp(min=1)

    def counted(self, ranking: Ranking) -> Tensor:
        if self.form == "mAP_r":
            return ranking.relevant > 0
        return torch.ones_like(ranking.relevant, dtype=torch.bool)
