"""N-pair loss (Sohn 2016, NIPS), on unnormalised embeddings.

    L = mean_t log(1 + sum_n exp(a.n - a.p)) + l2 mean_i ||x_i||

The sum runs over the negatives that the miner gives; in the paper these are the positives of the
other classes. The paper regularises by the squared norm. As in the original, with BN-Inception all
x are divided by 4, because its exponentials would overflow at the start of training.
"""

from torch import Tensor, nn

import architectures
from criteria import masked


def npair_term(embeddings: Tensor, pairs) -> Tensor:
    """mean over valid pairs of log(1 + sum_n exp(a.n - a.p)); embeddings (B, D), any scale."""
    a = embeddings.index_select(0, pairs.anchors)  # (T, D)
    p = embeddings.index_select(0, pairs.positives)
    scores = a @ embeddings.T - (a * p).sum(1, keepdim=True)  # (T, B)
    return masked.mean(masked.log_one_plus_sum_exp(scores, pairs.negatives), pairs.valid)


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, l2: float, divisor: float = 1.0):
        super().__init__()
        self.batchminer, self.l2, self.divisor = batchminer, l2, divisor

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        backbone, *_ = architectures.parse(opt.arch)
        return cls(batchminer, l2=opt.loss_npair_l2, divisor=4 if backbone == "bninception" else 1)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        pairs = self.batchminer(embeddings, labels)
        embeddings = embeddings / self.divisor
        length = embeddings.norm(dim=1).mean() * pairs.valid.any()
        return npair_term(embeddings, pairs) + self.l2 * length
