"""Negatives drawn by a histogram over distances: the fixed distributions of PADS.

PADS (Roth et al. 2020, arXiv 2003.11113, section 3) learns such a histogram. This miner offers the
histograms that PADS starts from or is compared with. `n_support` edges cut the range `support_lim`
into bins. Each row is an anchor once. Its positive is drawn uniformly. Its negative is drawn
uniformly from a bin, and the bin uniformly among those of the mode that hold a negative:

    uniform      every bin
    hards        bins up to 0.5
    semihards    bins from 0.3 to 0.7
    veryhards    bins up to 0.3

A bin belongs to a mode by its centre. Where no bin of the mode holds a negative, the bin is drawn
among all others (the original gives these the weight 1e-15); where no negative lies within
`support_lim`, the negative is drawn among all.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, one_per_anchor, prefer, relations
from utilities.geometry import distances

RANGES = {"uniform": (0.0, float("inf")), "hards": (0.0, 0.5), "semihards": (0.3, 0.7),
          "veryhards": (0.0, 0.3)}


class Miner:
    def __init__(self, *, mode: str, n_support: int, support_lim: tuple[float, float]):
        self.mode, self.n_bins, self.support_lim = mode, n_support - 1, support_lim

    @classmethod
    def from_opt(cls, name: str, opt):
        return cls(mode=opt.miner_parametric_mode, n_support=opt.miner_parametric_n_support,
                   support_lim=opt.miner_parametric_support_lim)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> B triplets."""
        candidates, negatives = relations(labels)
        positives, has_positive = draw(candidates)

        low, high = self.support_lim
        bins = torch.arange(self.n_bins, device=labels.device)
        bin_of = ((distances(embeddings, embeddings) - low) / (high - low) * self.n_bins).floor()
        populated = ((bin_of[:, None] == bins[:, None]) & negatives[:, None]).any(2)     # (B, bins)
        centres = low + (bins + 0.5) * (high - low) / self.n_bins
        first, last = RANGES[self.mode]
        preferred = (first <= centres) & (centres <= last)
        chosen, _ = draw(prefer(populated & preferred, populated))
        in_bin = negatives & (bin_of == chosen[:, None])
        negatives, has_negative = draw(prefer(in_bin, negatives))
        return one_per_anchor(positives, negatives, has_positive & has_negative)
