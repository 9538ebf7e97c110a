"""Quadruplet loss (Chen et al. 2017, arXiv 1704.01719).

    L = mean [||a - p|| - ||a - n|| + alpha_1]+ + mean [||a - p|| - ||n - n4|| + alpha_2]+

n4 is drawn uniformly from the rows of all classes but the anchor's and the negative's. A triplet
for which there is no such row takes part in the first mean only. The paper squares the distances.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria import masked
from utilities.geometry import paired_distance


class Criterion(nn.Module):
    lr = None

    def __init__(self, batchminer, *, alpha_1: float, alpha_2: float):
        super().__init__()
        self.batchminer, self.alpha_1, self.alpha_2 = batchminer, alpha_1, alpha_2

    @classmethod
    def from_opt(cls, opt, *, batchminer, **_):
        return cls(batchminer, alpha_1=opt.loss_quadruplet_margin_alpha_1,
                   alpha_2=opt.loss_quadruplet_margin_alpha_2)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        *triplets, valid = self.batchminer(embeddings, labels)
        fourth, exists = draw_fourth(labels, triplets[0], triplets[2])
        a, p, n, n4 = (embeddings.index_select(0, rows) for rows in (*triplets, fourth))
        d_ap = paired_distance(a, p)
        first = F.relu(d_ap - paired_distance(a, n) + self.alpha_1)
        second = F.relu(d_ap - paired_distance(n, n4) + self.alpha_2)
        return masked.mean(first, valid) + masked.mean(second, valid & exists)


def draw_fourth(labels: Tensor, anchors: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """For each triplet a uniform row of a third class, and whether there is one: (T,) each."""
    third_class = ((labels != labels.index_select(0, anchors)[:, None])
                   & (labels != labels.index_select(0, negatives)[:, None]))  # (T, B)
    lottery = torch.rand(third_class.shape, device=labels.device).masked_fill(~third_class, -1)
    return lottery.argmax(1), third_class.any(1)
