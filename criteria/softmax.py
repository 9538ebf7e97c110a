"""Normalised softmax (Zhai & Wu 2019, arXiv 1811.12649).

    L = mean_i CE(x_i . W / t, y_i),   rows of W of unit length

The paper also applies a layer norm and then normalises the embedding. Here, as in the original,
`--arch` alone decides whether embeddings are normalised.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.geometry import unit


class Criterion(nn.Module):
    def __init__(self, n_classes: int, embed_dim: int, *, temperature: float, lr: float):
        super().__init__()
        self.temperature, self.lr = temperature, lr
        self.class_weights = nn.Parameter(torch.empty(n_classes, embed_dim))
        bound = embed_dim**-0.5
        nn.init.uniform_(self.class_weights, -bound, bound)

    @classmethod
    def from_opt(cls, opt, *, n_classes, **_):
        return cls(n_classes, opt.embed_dim, temperature=opt.loss_softmax_temperature,
                   lr=opt.loss_softmax_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        logits = embeddings @ unit(self.class_weights).T / self.temperature
        return F.cross_entropy(logits, labels)
