"""Proxy Anchor (Kim et al. 2020, arXiv 2003.13911), and the same with the roles of an NCA loss.

    w+_ik = -a+ (x_i.P_{y_k} - d+)   for samples i, k of one class          (B, B)
    w-_ij =  a- (x_i.P_j - d-)       for proxies j of other classes         (B, C)
    L = mean log(1 + sum exp w+) + mean log(1 + sum exp w-)

In mode `anchor` each sum runs over a column (the samples around a proxy), in mode `nca` over a row
(the proxies around a sample). Empty sums are left out of the means. With `euclidean`, distances
replace the similarities, and a+ and a- are negated.

Deviation from the paper, as in the original: the mean over w+ runs over samples, so that a class
weighs as much as its share of the batch. Both agree where every class has equally many samples.
"""

import torch
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import distances, unit


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
        x, proxies = unit(embeddings), unit(self.proxies)
        closeness = distances(x, proxies) if self.euclidean else x @ proxies.T  # (B, C)
        positive = -self.pos_alpha * (closeness[:, labels] - self.pos_delta)    # (B, B)
        negative = self.neg_alpha * (closeness - self.neg_delta)
        same = labels[:, None] == labels
        other = labels[:, None] != torch.arange(len(proxies), device=labels.device)
        return self.log_sums(positive, same) + self.log_sums(negative, other)

    def log_sums(self, exponents: Tensor, mask: Tensor) -> Tensor:
        """Mean of log(1 + sum exp) over the columns or rows in which `mask` is anywhere true."""
        if self.mode == "anchor":
            exponents, mask = exponents.T, mask.T
        return masked.mean(masked.log_one_plus_sum_exp(exponents, mask), mask.any(1))
