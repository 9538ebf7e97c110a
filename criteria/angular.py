"""Angular loss with the n-pair loss (Wang et al. 2017, arXiv 1708.01682).

    L = w mean_t log(1 + sum_n exp(4 tan^2(alpha) (a + p).n - 2 (1 + tan^2(alpha)) a.p))
        + mean_t log(1 + sum_n exp(a.n - a.p)) + l2 mean_i ||x_i||

The first term takes normalised vectors, the second raw ones. w is the paper's lambda. The original
sets it to 2 and adds the l2 term.
"""

import math

from torch import Tensor, nn

from criteria import masked
from criteria.npair import npair_term
from utilities.geometry import unit


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, alpha: float, weight: float, l2: float):
        """alpha in degrees."""
        super().__init__()
        self.batchminer, self.weight, self.l2 = batchminer, weight, l2
        self.tan_squared = math.tan(math.radians(alpha)) ** 2

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        return cls(batchminer, alpha=opt.loss_angular_alpha,
                   weight=opt.loss_angular_npair_ang_weight, l2=opt.loss_angular_npair_l2)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        pairs = self.batchminer(embeddings, labels)
        directions = unit(embeddings)
        a = directions.index_select(0, pairs.anchors)  # (T, D)
        p = directions.index_select(0, pairs.positives)
        scores = (4 * self.tan_squared * (a + p) @ directions.T
                  - 2 * (1 + self.tan_squared) * (a * p).sum(1, keepdim=True))  # (T, B)
        angle = masked.mean(masked.log_one_plus_sum_exp(scores, pairs.negatives), pairs.valid)
        length = embeddings.norm(dim=1).mean() * pairs.valid.any()
        return self.weight * angle + npair_term(embeddings, pairs) + self.l2 * length
