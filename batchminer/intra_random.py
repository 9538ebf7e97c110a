"""Triplets inside one class: how its members vary.

DiVA (Milbich et al. 2020, arXiv 2004.13458), section 3.2. There are as many triplets as rows. Each
draws a class of the batch uniformly, whatever its size, then anchor, positive and negative from the
members of that class with replacement. With two members per class most triplets contain a row
twice; as in the original they are valid. Deviation from the original: a class with a single row,
which can only give (a, a, a), is not valid.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, draw_several, relations


class Miner:
    @classmethod
    def from_opt(cls, name: str, opt):
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
