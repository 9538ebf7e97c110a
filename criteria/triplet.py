"""Triplet loss (Schroff et al. 2015, arXiv 1503.03832).

    L = 1/T sum_t [||a - p||^2 - ||a - n||^2 + m]+

The paper sums; the original, followed here, takes the mean over all triplets, active or not.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, margin: float):
        super().__init__()
        self.batchminer, self.margin = batchminer, margin

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        return cls(batchminer, margin=opt.loss_triplet_margin)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        *triplets, valid = self.batchminer(embeddings, labels)
        a, p, n = (embeddings.index_select(0, rows) for rows in triplets)  # (T, D) each
        gap = (a - p).square().sum(1) - (a - n).square().sum(1)
        return masked.mean(F.relu(gap + self.margin), valid)
