"""Distance-weighted mining with permuted labels: what classes have in common.

DiVA (Milbich et al. 2020, arXiv 2004.13458), section 3.2, for `--diva_sharing random`: the labels
of the batch are permuted, then `distance` mines with them. Anchor and positive thus have the same
permuted label and the negative has another one, whatever their true labels are. The original does
the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets, distance


class Miner:
    name, tuples = "random_distance", "triplets"

    def __init__(self, *, lower_cutoff: float):
        self.by_distance = distance.Miner(lower_cutoff=lower_cutoff)

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
        return cls(lower_cutoff=opt.miner_distance_lower_cutoff)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        # torch.randperm visits the host on some versions and devices.
        order = torch.rand(len(labels), dtype=torch.float64, device=labels.device).argsort()
        return self.by_distance(embeddings, labels[order])
