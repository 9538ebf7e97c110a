"""Distance-weighted mining (Wu et al. 2017, arXiv 1706.07567).

    P(n | a) ~ 1 / q(max(d_an, lower_cutoff)),   q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2)

One triplet per anchor: a positive uniformly, a negative of another class by 1/q, which spreads the
negatives evenly over distances. The paper cuts the weight to a constant at its lower end, as here.
The original has its upper cutoff commented out, so there is none here; its log-weights, shifted by
the maximum over all rows, are shifted by the maximum over the candidates (the same probabilities
without its underflow), and distances of 2 and more, NaN there, are ordinary here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, inverse_density, relations
from utilities.geometry import distances


class Miner:
    name, tuples = "distance", "triplets"

    def __init__(self, *, lower_cutoff: float):
        self.lower_cutoff = lower_cutoff

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
        return cls(lower_cutoff=opt.miner_distance_lower_cutoff)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        candidates, negatives = relations(labels)
        weights = inverse_density(distances(embeddings, embeddings), embeddings.shape[1],
                                  negatives, lower_cutoff=self.lower_cutoff)
        positives, has_positive = draw(candidates)
        negatives, has_negative = draw(weights)
        anchors = torch.arange(len(labels), device=labels.device)
        return Triplets(anchors, positives, negatives, has_positive & has_negative)
