"""Triplets of three classes: what classes have in common (`--diva_sharing standard` and `full`).

DiVA (Milbich et al. 2020, arXiv 2004.13458), section 3.2. For each anchor a of class y_a:

    P(n | a) ~ 1 / q(max(d_an, lower_cutoff))   among y_n != y_a                  (as `distance`)
    p among y_p not in {y_a, y_n}: uniformly                                 (shared_neg_distance)
                                   by 1 / q(max(d_ap, lower_cutoff))        (shared_full_distance)

The original does the same. In a batch of fewer than three classes no triplet is valid.
"""

from functools import partial

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, inverse_density, one_per_anchor, relations
from utilities.geometry import distances


class Miner:
    def __init__(self, *, lower_cutoff: float, positives_by_distance: bool):
        self.lower_cutoff, self.positives_by_distance = lower_cutoff, positives_by_distance

    @classmethod
    def from_opt(cls, name: str, opt):
        return cls(lower_cutoff=opt.miner_distance_lower_cutoff,
                   positives_by_distance=name == "shared_full_distance")

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        d, dim = distances(embeddings, embeddings), embeddings.shape[1]
        weigh = partial(inverse_density, d, dim, lower_cutoff=self.lower_cutoff)
        other_class = relations(labels)[1]
        negatives, has_negative = draw(weigh(other_class))
        third_class = other_class & other_class[negatives]
        positives, has_positive = draw(
            weigh(third_class) if self.positives_by_distance else third_class)
        return one_per_anchor(positives, negatives, has_positive & has_negative)
