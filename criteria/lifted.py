"""Generalised lifted structure loss (Hermans et al. 2017, arXiv 1703.07737).

    L = mean_a [log sum_p exp(d_ap) + log sum_n exp(m - d_an)]+ + l2 mean_i ||x_i||

It generalises Song et al. 2016 (arXiv 1511.06452). The original adds the l2 term.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import distances


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, neg_margin: float, l2: float):
        super().__init__()
        self.batchminer, self.neg_margin, self.l2 = batchminer, neg_margin, l2

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        return cls(batchminer, neg_margin=opt.loss_lifted_neg_margin, l2=opt.loss_lifted_l2)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        positives, negatives, valid = self.batchminer(embeddings, labels)  # (B, B), (B, B), (B,)
        d = distances(embeddings, embeddings)
        pull = masked.log_sum_exp(d, positives)
        push = masked.log_sum_exp(self.neg_margin - d, negatives)
        length = embeddings.norm(dim=1).mean() * valid.any()
        return masked.mean(F.relu(pull + push), valid) + self.l2 * length
