"""Rotation prediction (Gidaris et al. 2018, arXiv 1803.07728).

    L = mean_i CE(V h_i, r_i)

with trunk features h_i of an image turned by r_i quarter turns and a linear classifier V without
bias.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from criteria import features


class Criterion(nn.Module):
    def __init__(self, feature_dim: int, *, lr: float):
        super().__init__()
        self.lr = lr
        self.classifier = nn.Linear(feature_dim, 4, bias=False)

    @classmethod
    def from_opt(cls, opt, *, feature_dim, **_):
        return cls(feature_dim, lr=10 * opt.lr)

    def forward(self, trunk: Tensor, rotations: Tensor) -> Tensor:
        """trunk (B, feature_dim); rotations (B,) int64 quarter turns, 0 to 3 -> scalar."""
        return F.cross_entropy(self.classifier(trunk), rotations)


class Feature(features.Feature):
    """Sees the trunk of the rotated view (the original feeds the trunk of the unrotated one)."""

    remedy = "leaving imrot out, whose task is solved"
    further_views = ("rotated_views",)

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        return cls(name, Criterion.from_opt(opt, **sizes))

    def loss(self, step: features.Step) -> Tensor:
        _, trunk = step.further_views["rotated_views"]
        return self.criterion(trunk, step.batch.rotations)
