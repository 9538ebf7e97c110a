"""Semi-hard mining (Schroff et al. 2015, FaceNet, arXiv 1503.03832, section 3.2).

Each row is an anchor once. Its positive is drawn uniformly, then its negative uniformly among those
with

    d_ap < d_an < d_ap + margin

or among all negatives where there is none. Deviation from the paper: distances are not squared.
Deviation from the original: its miner of this name by mistake follows the rule of `softhard`.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from batchminer.sampling import draw, one_per_anchor, prefer, relations
from utilities.geometry import distances
from utilities.options import GUEST


class Miner:
    def __init__(self, *, margin: float):
        self.margin = margin

    @classmethod
    def from_opt(cls, name: str, opt):
        """The margin is the loss's own where it has one, else 0.2."""
        return cls(margin=margin_of_loss(opt))

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> B triplets."""
        candidates, negatives = relations(labels)
        d = distances(embeddings, embeddings)
        positives, has_positive = draw(candidates)
        d_ap = d.gather(1, positives[:, None])
        semihard = negatives & (d > d_ap) & (d < d_ap + self.margin)
        negatives, has_negative = draw(prefer(semihard, negatives))
        return one_per_anchor(positives, negatives, has_positive & has_negative)


def margin_of_loss(opt, default: float = 0.2) -> float:
    """Between d_ap and d_an: `--loss_<loss>_margin`, or what a guest is given as its margin."""
    if opt.loss == "quadruplet":
        return opt.loss_quadruplet_margin_alpha_1
    if not opt.loss.startswith(GUEST):
        return getattr(opt, f"loss_{opt.loss}_margin", default)
    margin = opt.pml_loss_args.get("margin")
    is_number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    return margin if is_number else default
