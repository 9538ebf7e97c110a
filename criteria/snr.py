"""Signal-to-noise ratio loss (Yuan et al. 2019, arXiv 1904.02616).

    SNR(a, b) = var(a - b) / var(a)
    L = sum_t [SNR_ap - SNR_an + m]+ / #active + lambda mean_t |sum_d a_d|

with learned margins (beta > 0):

    L = sum_t ([SNR_ap - b_c + m]+ + [b_c - SNR_an + m]+) / #{t : any term active} + ...

var is the unbiased variance over dimensions. The paper takes the mean over all triplets. The
original, followed here, takes it over active ones, and leaves the regulariser out where triplets
are mined by distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked

UNREGULARISED = ("distance", "random_distance", "shared_neg_distance", "shared_full_distance")


class Criterion(nn.Module):
    def __init__(self, batchminer, n_classes: int, *, margin: float, reg_lambda: float,
                 beta: float = 0.0, lr: float | None = None):
        """beta: start value of the margin that each class learns; at 0 no margin is learned."""
        super().__init__()
        self.batchminer, self.margin, self.reg_lambda = batchminer, margin, reg_lambda
        self.beta = nn.Parameter(torch.full((n_classes,), float(beta))) if beta > 0 else None
        self.lr = lr if beta > 0 else None

    @classmethod
    def from_opt(cls, opt, *, n_classes, batchminer, **_):
        regularised = batchminer.name not in UNREGULARISED
        return cls(batchminer, n_classes, margin=opt.loss_snr_margin,
                   reg_lambda=opt.loss_snr_reg_lambda if regularised else 0.0,
                   beta=opt.loss_snr_beta, lr=opt.loss_snr_beta_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        *triplets, valid = self.batchminer(embeddings, labels)
        a, p, n = (embeddings.index_select(0, rows) for rows in triplets)  # (T, D) each
        signal = a.var(1).clamp(min=1e-12)
        snr_ap, snr_an = (a - p).var(1) / signal, (a - n).var(1) / signal
        if self.beta is None:
            hinges = F.relu(snr_ap - snr_an + self.margin)
        else:
            beta = self.beta.index_select(0, labels.index_select(0, triplets[0]))
            hinges = F.relu(snr_ap - beta + self.margin) + F.relu(beta - snr_an + self.margin)
        loss = masked.mean(hinges, valid & (hinges != 0))  # NaN counts
        if self.reg_lambda:
            loss = loss + self.reg_lambda * masked.mean(a.sum(1).abs(), valid)
        return loss
