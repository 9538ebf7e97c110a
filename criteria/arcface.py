"""ArcFace (Deng et al. 2019, arXiv 1801.07698).

    L = mean_i CE(s c_i, y_i),   c_ij = cos(theta_ij + m) for j = y_i, cos(theta_ij) for all others

with theta_ij the angle between embedding i and class weight j. Past theta_ij = pi - m, where
cos(theta_ij + m) would rise again, their code continues with cos(theta_ij) - m sin(m), as here.

The original (`--loss_arcface_original`) adds the shift cos(theta_y + m) - cos(theta_y) to every
logit of the row. A softmax does not change when all its logits move together, so the margin has no
effect there. Computed is what remains: the scaled softmax over cosines clamped to
[1e-10, 1 - 1e-10], of embeddings that are not normalised here.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.geometry import unit

SMALLEST_SINE_SQUARED = 1e-7  # keeps the sine's gradient finite where an embedding meets its weight


class Criterion(nn.Module):
    def __init__(self, n_classes: int, embed_dim: int, *, margin: float, scale: float,
                 original: bool, lr: float):
        """margin: radians."""
        super().__init__()
        self.margin, self.scale, self.original, self.lr = margin, scale, original, lr
        self.class_weights = nn.Parameter(torch.empty(n_classes, embed_dim))
        bound = embed_dim**-0.5
        nn.init.uniform_(self.class_weights, -bound, bound)

    @classmethod
    def from_opt(cls, opt, *, n_classes, **_):
        return cls(n_classes, opt.embed_dim, margin=opt.loss_arcface_angular_margin,
                   scale=opt.loss_arcface_feature_scale, original=opt.loss_arcface_original,
                   lr=opt.loss_arcface_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        class_weights = unit(self.class_weights)
        if self.original:
            cosines = (embeddings @ class_weights.T).clamp(1e-10, 1 - 1e-10)
        else:
            cosines = unit(embeddings) @ class_weights.T
            columns = labels.unsqueeze(1)
            cosines = cosines.scatter(1, columns, self.add_margin(cosines.gather(1, columns)))
        return F.cross_entropy(self.scale * cosines, labels)

    def add_margin(self, cosine: Tensor) -> Tensor:
        """cos(theta) -> cos(theta + margin), falling all the way to theta = pi."""
        sine = (1 - cosine**2).clamp(min=SMALLEST_SINE_SQUARED).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), shifted, beyond)
