"""Proxy Anchor (Kim et al. 2020, arXiv 2003.13911), and the same with the roles of an NCA loss.

    w+_ik = -a+ (x_i.P_{y_k} - d+)   for samples i, k of one class          (B, B)
    w-_ij =  a- (x_i.P_j - d-)       for proxies j of other classes         (B, C)
    L = mean log(1 + sum exp w+) + mean log(1 + sum exp w-)

Mode `anchor`: a sum for each column (over the samples around a proxy); `nca`: a sum for each row
(over the proxies around a sample). Sums over nothing are left out of the means. Euclidean:
distances in place of the similarities, and both a negated.

Deviation from the paper, as in the original: the mean over w+ runs over samples, so a class counts
by its share of the batch; it is the paper's where the batch is balanced over classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import distances


class Criterion(nn.Module):
    def __init__(self, n_classes: int, embed_dim: int, *, mode: str, euclidean: bool,
                 pos_alpha: float, neg_alpha: float, pos_delta: float, neg_delta: float, lr: float):
        super().__init__()
        self.mode, self.euclidean, self.lr = mode, euclidean, lr
        sign = -1 if euclidean else 1
        self.pos_alpha, self.neg_alpha = sign * pos_alpha, sign * neg_alpha
        self.pos_delta, self.neg_delta = pos_delta, neg_delta
        self.proxies = nn.Parameter(torch.randn(n_classes, embed_dim) / 8)

    @classmethod
    def from_opt(cls, opt, *, n_classes, **_):
        return cls(n_classes, opt.embed_dim, mode=opt.loss_oproxy_mode,
                   euclidean=opt.loss_oproxy_euclidean, pos_alpha=opt.loss_oproxy_pos_alpha,
                   neg_alpha=opt.loss_oproxy_neg_alpha, pos_delta=opt.loss_oproxy_pos_delta,
                   neg_delta=opt.loss_oproxy_neg_delta, lr=opt.lr * opt.loss_oproxy_lrmulti)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        x, proxies = F.normalize(embeddings, dim=1), F.normalize(self.proxies, dim=1)
        closeness = distances(x, proxies) if self.euclidean else x @ proxies.T  # (B, C)
        own = labels.unsqueeze(1)
        positive, same = -self.pos_alpha * (closeness[:, labels] - self.pos_delta), own == labels
        negative = self.neg_alpha * (closeness - self.neg_delta)
        other = own != torch.arange(len(proxies), device=labels.device)
        return self.log_sums(positive, same) + self.log_sums(negative, other)

    def log_sums(self, exponents: Tensor, mask: Tensor) -> Tensor:
        """Mean log(1 + sum exp) over the columns or rows that have an entry in `mask`."""
        if self.mode == "anchor":
            exponents, mask = exponents.T, mask.T
        return masked.mean(masked.log_one_plus_sum_exp(exponents, mask), mask.any(1))
