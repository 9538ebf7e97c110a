"""Proxy-NCA (Movshovitz-Attias et al. 2017, arXiv 1703.07464).

    L = mean_i [ ||x_i - P_{y_i}||^2 + log sum_{c != y_i} exp(-||x_i - P_c||^2) ]

with embeddings x and one proxy P for each class, both scaled to length 3 (in the paper: 1).
"""

import torch
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import squared_distances, unit

LENGTH = 3


class Criterion(nn.Module):
    def __init__(self, n_classes: int, embed_dim: int, *, lr: float):
        super().__init__()
        self.lr = lr
        self.proxies = nn.Parameter(torch.randn(n_classes, embed_dim) / 8)

    @classmethod
    def from_opt(cls, opt, *, n_classes, **_):
        return cls(n_classes, opt.embed_dim, lr=opt.loss_proxynca_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        x = LENGTH * unit(embeddings)
        d2 = squared_distances(x, LENGTH * unit(self.proxies))     # (B, C)
        others = labels.unsqueeze(1) != torch.arange(len(self.proxies), device=labels.device)
        pull = d2.gather(1, labels.unsqueeze(1)).squeeze(1)
        return masked.mean(pull + masked.log_sum_exp(-d2, others), others.any(1))
