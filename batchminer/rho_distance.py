"""Distance-weighted mining that sometimes pushes the anchor's class apart.

rho-regularisation (Roth et al. 2020, arXiv 2002.08473, section 5): with probability `cp` the
triplet (a, p, n) of `distance` is replaced by (a, a, p). This spreads a class out and so keeps the
embedding from collapsing onto few directions. The original does the same under both names of this
miner; like `distance`, neither applies its upper cutoff.
"""

import torch
from torch import Tensor

from batchminer import Triplets, distance
from batchminer.sampling import relations


class Miner(distance.Miner):
    def __init__(self, *, lower_cutoff: float, cp: float):
        super().__init__(lower_cutoff=lower_cutoff)
        self.cp = cp

    @classmethod
    def from_opt(cls, name: str, opt):
        if name == "anticollapse_cdistance":
            return cls(lower_cutoff=opt.miner_anticollapse_cdistance_lower_cutoff,
                       cp=opt.miner_anticollapse_cdistance_cp)
        return cls(lower_cutoff=opt.miner_rho_distance_lower_cutoff, cp=opt.miner_rho_distance_cp)

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        anchors, positives, negatives, valid = super().__call__(embeddings, labels)
        has_positive = relations(labels)[0].any(1)
        switched = torch.rand(len(labels), device=labels.device) < self.cp
        return Triplets(anchors, torch.where(switched, anchors, positives),
                        torch.where(switched, positives, negatives),
                        valid | (has_positive & switched))
