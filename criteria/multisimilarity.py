"""Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627) on similarities s = x.x'.

    L = mean_i log(1 + sum_p exp(-w_p (s_ip - t))) / w_p + log(1 + sum_n exp(w_n (s_in - t))) / w_n

Anchor i keeps the negatives with s + margin > min of its positives and the positives with
s - margin < max of its negatives. The paper takes the mean over all anchors. The original, followed
here, takes it over the anchors that keep both kinds; the loss is zero where there is none.
"""

import torch
from torch import Tensor, nn

from criteria import masked


class Criterion(nn.Module):
    lr = None

    def __init__(self, *, pos_weight: float, neg_weight: float, margin: float, threshold: float):
        super().__init__()
        self.pos_weight, self.neg_weight = pos_weight, neg_weight
        self.margin, self.threshold = margin, threshold

    @classmethod
    def from_opt(cls, opt, **_):
        return cls(pos_weight=opt.loss_multisimilarity_pos_weight,
                   neg_weight=opt.loss_multisimilarity_neg_weight,
                   margin=opt.loss_multisimilarity_margin,
                   threshold=opt.loss_multisimilarity_thresh)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B,) int64 on the same device -> scalar."""
        similarity = embeddings @ embeddings.T
        positives, negatives = self.select_pairs(similarity.detach(), labels)
        offset = similarity - self.threshold
        pull = masked.log_one_plus_sum_exp(-self.pos_weight * offset, positives) / self.pos_weight
        push = masked.log_one_plus_sum_exp(self.neg_weight * offset, negatives) / self.neg_weight
        return masked.mean(pull + push, positives.any(1) & negatives.any(1))

    def select_pairs(self, similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and negatives, (B, B) bool each, that are hard enough to be kept."""
        negatives = labels[:, None] != labels
        positives = (~negatives).fill_diagonal_(False)
        farthest_positive = similarity.masked_fill(~positives, torch.inf).amin(1, keepdim=True)
        nearest_negative = similarity.masked_fill(~negatives, -torch.inf).amax(1, keepdim=True)
        # What is not too easy is kept: NaN stays, too, so that the loss shows what diverged.
        return (positives & ~(similarity - self.margin >= nearest_negative),
                negatives & ~(similarity + self.margin <= farthest_positive))
