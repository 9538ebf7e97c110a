"""All positives and all negatives of every row, for the lifted structure loss (Song et al. 2016,
arXiv 1511.06452) in its generalised form (Hermans et al. 2017, arXiv 1703.07737)."""

import torch
from torch import Tensor

from batchminer import Sets
from batchminer.sampling import relations


class Miner:
    @classmethod
    def from_opt(cls, name: str, opt):
        return cls()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Sets:
        """embeddings (B, D), labels (B,) -> (B, B) masks."""
        positives, negatives = relations(labels)
        return Sets(positives, negatives, positives.any(1) & negatives.any(1))
