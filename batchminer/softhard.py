"""Soft-hard mining: uniformly among hard members (Roth et al. 2020, arXiv 2002.08473, appendix).

Each row is an anchor once. Its positive and its negative are drawn uniformly among

    positives farther than the nearest negative:   d_ap > min_n d_an
    negatives closer than the farthest positive:   d_an < max_p d_ap

If one of the two sets is empty, so is the other; both are then drawn among all positives and all
negatives. The original's `semihard` follows this rule by mistake. In `anticollapse_semihard` the
hard positives are candidates for the negative, too, which spreads classes out.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, one_per_anchor, prefer, relations
from utilities.geometry import distances


class Miner:
    def __init__(self, *, anticollapse: bool = False):
        self.anticollapse = anticollapse

    @classmethod
    def from_opt(cls, name: str, opt):
        return cls(anticollapse=name == "anticollapse_semihard")

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> B triplets."""
        positives, negatives = relations(labels)
        hard_positives, hard_negatives = self.hard(embeddings, positives, negatives)
        if self.anticollapse:
            hard_negatives = hard_negatives | hard_positives
        chosen_positives, has_positive = draw(prefer(hard_positives, positives))
        chosen_negatives, has_negative = draw(prefer(hard_negatives, negatives))
        return one_per_anchor(chosen_positives, chosen_negatives, has_positive & has_negative)

    @staticmethod
    def hard(embeddings: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """(B, B) bool positives and negatives -> those of them that are hard."""
        d = distances(embeddings, embeddings)
        nearest_negative = d.masked_fill(~negatives, torch.inf).amin(1, keepdim=True)
        farthest_positive = d.masked_fill(~positives, -torch.inf).amax(1, keepdim=True)
        return positives & (d > nearest_negative), negatives & (d < farthest_positive)
