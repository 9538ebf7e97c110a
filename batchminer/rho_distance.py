"""Distance-weighted mining that sometimes pushes the anchor's own class away.

rho-regularisation (Roth et al. 2020, arXiv 2002.08473, section 5): with probability `cp` the
triplet (a, p, n) is replaced by (a, a, p), which spreads a class out and so keeps the embedding
from collapsing onto few directions; otherwise a triplet of `distance`. As the original, for both
names; there is no upper cutoff, as in `distance`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, inverse_density, relations
from utilities.geometry import distances


class Miner:
    tuples = "triplets"

    def __init__(self, name: str, *, lower_cutoff: float, cp: float):
        self.name, self.lower_cutoff, self.cp = name, lower_cutoff, cp

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
        if name == "anticollapse_cdistance":
            return cls(name, lower_cutoff=opt.miner_anticollapse_cdistance_lower_cutoff,
                       cp=opt.miner_anticollapse_cdistance_cp)
        return cls(name, lower_cutoff=opt.miner_rho_distance_lower_cutoff,
                   cp=opt.miner_rho_distance_cp)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        candidates, negatives = relations(labels)
        weights = inverse_density(distances(embeddings, embeddings), embeddings.shape[1],
                                  negatives, lower_cutoff=self.lower_cutoff)
        members, has_member = draw(candidates)
        negatives, has_negative = draw(weights)
        anchors = torch.arange(len(labels), device=labels.device)
        switched = torch.rand(len(labels), device=labels.device) < self.cp
        return Triplets(anchors, torch.where(switched, anchors, members),
                        torch.where(switched, members, negatives),
                        has_member & (has_negative | switched))
