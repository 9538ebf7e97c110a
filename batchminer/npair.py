"""Tuples of the N-pair loss (Sohn 2016, NIPS).

Every row is an anchor once. Its positive is drawn uniformly, and all rows of other classes are its
negatives. In the paper each of N classes gives one anchor and one positive.
"""

import torch
from torch import Tensor

from batchminer import Pairs
from batchminer.sampling import draw, relations


class Miner:
    @classmethod
    def from_opt(cls, name: str, opt):
        return cls()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Pairs:
        """embeddings (B, D), labels (B,) -> B pairs, each with its (B,) mask of negatives."""
        candidates, negatives = relations(labels)
        positives, has_positive = draw(candidates)
        anchors = torch.arange(len(labels), device=labels.device)
        return Pairs(anchors, positives, negatives, has_positive & negatives.any(1))
