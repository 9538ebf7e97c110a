"""Triplets inside one class: how its members vary.

DiVA (Milbich et al. 2020, arXiv 2004.13458), section 3.2. As many triplets as samples; each draws
a class of the batch uniformly, whatever its size, then anchor, positive and negative from its
members, with replacement. As the original: with two members per class most triplets repeat a row,
and they count. A class of one image, which can only give (a, a, a), is not valid here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, draw_several, relations


class Miner:
    name, tuples = "intra_random", "triplets"

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
        return cls()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> B triplets."""
        others, negatives = relations(labels)
        first = ~others.tril().any(1)                    # (B,): the first row of each class
        representative, _ = draw(first.expand(len(labels), -1))
        members = ~negatives[representative]             # (B, B): the drawn class
        triplets, _ = draw_several(members, 3)
        return Triplets(*triplets, others.any(1)[representative])
