"""Random triplets: B of all valid triplets of the batch, uniformly and without repetition.

The N = sum_a P_a N_a valid triplets (P_a positives, N_a negatives of anchor a) are numbered anchor
by anchor. B distinct numbers are drawn, and anchor, positive and negative are computed from each;
no tensor has size N. Where N < B, every triplet comes once, and the others are marked not valid.
Deviation from the original: it draws classes first and then members, which is not uniform.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import columns_above, relations


class Miner:
    @classmethod
    def from_opt(cls, name: str, opt):
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

    The first `count` steps of Fisher and Yates' shuffle of 0..total-1, without making that list:
    step i draws j_i uniformly from i..total-1, swaps the entries at positions i and j_i, and gives
    the one that comes to position i. What it finds at a position was put there by the last earlier
    step m with j_m = that position; it came from position m, where an even earlier step had put it.
    Pointer doubling follows all these links at once. Steps from `total` on are not valid.
    """
    step = torch.arange(count, device=total.device)
    uniform = torch.rand(count, dtype=torch.float64, device=total.device)
    other = step + (uniform * (total - step)).long()

    def last_step_to(positions: Tensor) -> Tensor:
        """For each step i, the last earlier step m with j_m = positions[i], or -1."""
        hits = (other == positions[:, None]).tril(-1)
        return torch.where(hits, step, -1).amax(1)

    before = last_step_to(step)
    origin = torch.where(before < 0, step, before)
    for _ in range(count.bit_length()):
        origin = origin[origin]
    brought_by = last_step_to(other)
    return torch.where(brought_by < 0, other, origin[brought_by.clamp(min=0)]), step < total
