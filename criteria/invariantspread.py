"""Invariant and spreading instances (Ye et al. 2019, arXiv 1904.03436).

    p_ij = exp(x_i.x_j / t) / sum_{k != i} exp(x_i.x_k / t)
    L = -1/n sum_i [ log p_{i, twin(i)} + sum_{j != i, twin(i)} log(1 - p_ij) ]

over the n = 2 B embeddings of B images in two views. As in the authors' code, the right factor x_j
is a constant for autograd.
"""

import torch
from torch import Tensor, nn

from criteria import features
from datasets import Batch

ABSENT = -1e30  # a logit that exp() turns into 0, finite so that gradients are


class Criterion(nn.Module):
    lr = None

    def __init__(self, *, temperature: float):
        super().__init__()
        self.temperature = temperature

    @classmethod
    def from_opt(cls, opt, **_):
        return cls(temperature=opt.diva_instdiscr_temperature)

    def forward(self, head_1: Tensor, head_2: Tensor) -> Tensor:
        """head_1, head_2 (B, D), row i of both from one image -> scalar."""
        x = torch.cat([head_1, head_2])
        rows = torch.arange(len(x), device=x.device)
        twin = rows.roll(len(head_1)).unsqueeze(1)                                # (n, 1)
        diagonal = rows == rows.unsqueeze(1)
        logits = (x @ x.detach().T / self.temperature).masked_fill(diagonal, ABSENT)
        total = logits.logsumexp(1, keepdim=True)
        log_p = logits - total                                                    # (n, n)

        # log(1 - p) loses its digits where p is near 1, which only the largest p of a row can be.
        # For that one, 1 - p is computed as the sum over all others.
        largest = logits.detach().argmax(1, keepdim=True)
        others = logits.scatter(1, largest, ABSENT).logsumexp(1, keepdim=True) - total
        smaller = log_p.scatter(1, largest, ABSENT).scatter(1, twin, ABSENT)
        spread = torch.log1p(-smaller.exp()).sum(1, keepdim=True)
        spread = spread + others.masked_fill(largest == twin, 0)
        return -(log_p.gather(1, twin) + spread).mean()


class Feature(features.Feature):
    """The network sees the first half of the batch in two views. Labels, indices and keys follow
    the images (in the original they do not)."""

    remedy = "a higher --diva_instdiscr_temperature"

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        return cls(name, Criterion.from_opt(opt, **sizes))

    def prepare(self, batch: Batch) -> Batch:
        first = Batch(*(values if values is None else values[:len(values) // 2]
                        for values in batch))
        swapped = first._replace(images=first.second_views, second_views=first.images)
        return Batch(*(values if values is None else torch.cat([values, others])
                       for values, others in zip(first, swapped, strict=True)))

    def loss(self, step: features.Step) -> Tensor:
        return self.criterion(*step.embeddings[self.name].chunk(2))
