"""Contrastive loss (Hadsell et al. 2006, CVPR) on the pairs of mined triplets.

    L = mean_t [d_ap - m_pos]+ + mean_t [m_neg - d_an]+

The paper squares both terms and has no m_pos. The original, followed here, squares neither and adds
m_pos.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import paired_distance


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, pos_margin: float, neg_margin: float):
        super().__init__()
        self.batchminer, self.pos_margin, self.neg_margin = batchminer, pos_margin, neg_margin

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        return cls(batchminer, pos_margin=opt.loss_contrastive_pos_margin,
                   neg_margin=opt.loss_contrastive_neg_margin)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        *triplets, valid = self.batchminer(embeddings, labels)
        a, p, n = (embeddings.index_select(0, rows) for rows in triplets)  # (T, D) each
        pull = F.relu(paired_distance(a, p) - self.pos_margin)
        push = F.relu(self.neg_margin - paired_distance(a, n))
        return masked.mean(pull + push, valid)
