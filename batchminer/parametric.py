"""Negatives by a histogram over distances: the fixed distributions of PADS.

PADS (Roth et al. 2020, arXiv 2003.11113, section 3) learns such a histogram; here it is one of
those that it starts from or is compared with. The range `support_lim` is cut into bins by
`n_support` edges. One triplet per anchor: a positive uniformly; a bin by the histogram among the
bins in which the anchor has negatives; a negative uniformly in that bin.

    uniform      every bin alike
    hards        bins up to 0.5
    semihards    bins from 0.3 to 0.7
    veryhards    bins up to 0.3

A bin belongs to a range by its centre. The other bins are drawn from only where the anchor has no
negative in the range (the original gives them 1e-15), and all negatives alike where none is within
`support_lim`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, prefer, relations
from utilities.geometry import distances

RANGES = {"uniform": (0.0, float("inf")), "hards": (0.0, 0.5), "semihards": (0.3, 0.7),
          "veryhards": (0.0, 0.3)}


class Miner:
    name, tuples = "parametric", "triplets"

    def __init__(self, *, mode: str, n_support: int, support_lim: tuple[float, float]):
        self.mode, self.n_bins, self.support_lim = mode, n_support - 1, support_lim

    @classmethod
    def from_opt(cls, name: str, opt) -> Miner:
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

        anchors = torch.arange(len(labels), device=labels.device)
        return Triplets(anchors, positives, negatives, has_positive & has_negative)
