"""Random triplets: B of all valid triplets of the batch, uniformly and without repetition.

The N = sum_a P_a N_a valid triplets (P_a positives, N_a negatives of anchor a) are numbered anchor
by anchor; B distinct numbers are drawn, and each is taken apart into anchor, positive, negative.
Nothing of size N is made. Fewer than B triplets in all: each comes once, the rest is not valid.
The original draws classes and members first, so that anchor and positive may be the same row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import columns_above, relations


class Miner:
    name, tuples = "random", "triplets"

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
        return cls()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> B triplets."""
        positives, negatives = (mask.cumsum(1) for mask in relations(labels))   # (B, B) counts
        n_negatives = negatives[:, -1]
        n_triplets = positives[:, -1] * n_negatives                           # (B,), per anchor
        ends = n_triplets.cumsum(0)
        number, valid = distinct(ends[-1], len(labels))

        anchors = torch.searchsorted(ends, number, right=True).clamp(max=len(labels) - 1)
        rank = number - (ends - n_triplets)[anchors]
        n_negatives = n_negatives[anchors].clamp(min=1)
        which_positive, which_negative = rank // n_negatives, rank % n_negatives
        return Triplets(anchors,
                        columns_above(positives[anchors], which_positive[:, None]).squeeze(1),
                        columns_above(negatives[anchors], which_negative[:, None]).squeeze(1),
                        valid)


def distinct(total: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """total () int64 -> `count` distinct numbers of 0..total-1 uniformly, and which are valid.

    The first `count` steps of Fisher and Yates: step i swaps places i and j_i of 0, 1, 2, ... with
    j_i uniform in i..total-1, and returns what comes to place i. What lies at a place when step i
    looks was brought there by the last earlier step m with j_m = that place, from place m, where
    in turn it was brought by an earlier step; following these links back to the first one, all at
    once by pointer doubling, replaces the list of length `total`. Steps past `total` are not valid.
    """
    step = torch.arange(count, device=total.device)
    uniform = torch.rand(count, dtype=torch.float64, device=total.device)
    other = step + (uniform * (total - step)).long()

    def last_step_to(places: Tensor) -> Tensor:
        """places (count,) of steps 0.. -> the last earlier step that swapped with it, or -1."""
        hits = (other == places[:, None]).tril(-1)
        return torch.where(hits, step, -1).amax(1)

    before = last_step_to(step)
    origin = torch.where(before < 0, step, before)
    for _ in range(count.bit_length()):
        origin = origin[origin]
    brought_by = last_step_to(other)
    return torch.where(brought_by < 0, other, origin[brought_by.clamp(min=0)]), step < total
