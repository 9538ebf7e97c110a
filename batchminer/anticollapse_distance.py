"""Distance-weighted negatives among all rows, the anchor's class included.

From the code base of Roth et al. 2020 (arXiv 2002.08473), against the collapse of classes. Each row
is an anchor once. Its positive is drawn uniformly; its negative is drawn with probability
~ 1/q(max(d, lower_cutoff)) (see `distance`) among all other rows at most `upper_cutoff` away, which
may be of the anchor's class or even the positive. Deviation from the original: it divides by zero
where no row is near enough; here that anchor is not valid.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, inverse_density, one_per_anchor, relations
from utilities.geometry import distances


class Miner:
    def __init__(self, *, lower_cutoff: float, upper_cutoff: float):
        self.lower_cutoff, self.upper_cutoff = lower_cutoff, upper_cutoff

    @classmethod
    def from_opt(cls, name: str, opt):
        return cls(lower_cutoff=opt.miner_anticollapse_distance_lower_cutoff,
                   upper_cutoff=opt.miner_anticollapse_distance_upper_cutoff)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        d = distances(embeddings, embeddings)
        near = (~(d > self.upper_cutoff)).fill_diagonal_(False)     # NaN is near, and shows itself
        positives, has_positive = draw(relations(labels)[0])
        negatives, has_negative = draw(
            inverse_density(d, embeddings.shape[1], near, lower_cutoff=self.lower_cutoff))
        return one_per_anchor(positives, negatives, has_positive & has_negative)
