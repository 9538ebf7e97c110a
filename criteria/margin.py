"""Margin loss (Wu et al. 2017, arXiv 1706.07567).

    L = sum_t ([d_ap - beta_c + m]+ + [beta_c - d_an + m]+) / #{t : any term active}
        + nu sum_t beta_c

where c is the class of the anchor and each class has a learned beta_c. The paper divides by the
number of active terms; the released DiVA code, followed here, divides by the number of active
triplets. In that code `nu` crashes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.geometry import paired_distance


class Criterion(nn.Module):
    def __init__(self, batchminer, n_classes: int, *, margin: float, beta: float,
                 constant_beta: bool = False, nu: float = 0.0, lr: float | None = None):
        super().__init__()
        self.batchminer, self.margin, self.nu = batchminer, margin, nu
        beta = torch.full((n_classes,), float(beta))
        if constant_beta:
            self.register_buffer("beta", beta)
            self.lr = None
        else:
            self.beta = nn.Parameter(beta)
            self.lr = lr

    @classmethod
    def from_opt(cls, opt, *, n_classes, batchminer, **_):
        return cls(batchminer, n_classes, margin=opt.loss_margin_margin, beta=opt.loss_margin_beta,
                   constant_beta=opt.loss_margin_beta_constant, nu=opt.loss_margin_nu,
                   lr=opt.loss_margin_beta_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        a, p, n, valid = self.batchminer(embeddings, labels)  # (T,) each
        others = embeddings.index_select(0, torch.cat([p, n])).view(2, len(a), -1)
        d_ap, d_an = paired_distance(embeddings.index_select(0, a), others, eps=1e-8)   # (T,) each
        beta = self.beta.index_select(0, labels.index_select(0, a))
        pull = F.relu(d_ap - beta + self.margin) * valid
        push = F.relu(beta - d_an + self.margin) * valid
        active = ((pull > 0) | (push > 0)).sum().clamp(min=1)
        loss = (pull + push).sum() / active
        if self.nu:
            loss = loss + self.nu * (beta * valid).sum()
        return loss
