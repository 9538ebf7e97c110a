"""Distance-weighted mining (Wu et al. 2017, arXiv 1706.07567).

    P(n | a) ~ 1 / q(max(d_an, lower_cutoff)),   q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2)

Each row is an anchor once. Its positive is drawn uniformly, its negative among the other classes
with probability ~ 1/q, which spreads negatives evenly over distances. Below the lower cutoff the
weight is constant, as in the paper. There is no upper cutoff: the original has it commented out.

Deviations from the original: log-weights are shifted by the maximum over each anchor's candidates
instead of over all rows, which gives the same probabilities without underflow, and distances of 2
and more, which give NaN there, are allowed.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, inverse_density, one_per_anchor, relations
from utilities.geometry import distances


class Miner:
    def __init__(self, *, lower_cutoff: float):
        self.lower_cutoff = lower_cutoff

    @classmethod
    def from_opt(cls, name: str, opt):
        return cls(lower_cutoff=opt.miner_distance_lower_cutoff)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        candidates, negatives = relations(labels)
        weights = inverse_density(distances(embeddings, embeddings), embeddings.shape[1],
                                  negatives, lower_cutoff=self.lower_cutoff)
        positives, has_positive = draw(candidates)
        negatives, has_negative = draw(weights)
        return one_per_anchor(positives, negatives, has_positive & has_negative)
