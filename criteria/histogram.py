"""Histogram loss (Ustinova & Lempitsky 2016, arXiv 1611.00822).

    L = sum_r h-_r sum_{q <= r} h+_q

h+ and h- are the histograms of the similarities of positive and negative pairs over the nodes
t_r = -1 + r Delta, Delta = 2 / (nbins - 1). A triangular kernel divides each pair between its two
neighbouring nodes. Deviation from the original: it finds these nodes by comparing floats, which
loses weights unless Delta is a binary fraction; here every histogram sums to one.
"""

import torch
from torch import Tensor, nn


class Criterion(nn.Module):
    lr = None

    def __init__(self, *, nbins: int):
        super().__init__()
        self.nbins = nbins
        # Older torch refuses cumsum of floats on CUDA under its deterministic algorithms.
        self.register_buffer("up_to", torch.ones(nbins, nbins).tril(), persistent=False)

    @classmethod
    def from_opt(cls, opt, **_):
        return cls(nbins=opt.loss_histogram_nbins)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B,) int64 on the same device -> scalar."""
        positive, negative = self.histograms(embeddings @ embeddings.T, labels)
        return negative @ (self.up_to @ positive)

    def histograms(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """h+ and h-, (2, nbins); all zeros for the kind of which there is no pair."""
        same = labels[:, None] == labels
        pairs = torch.ones_like(similarity).fill_diagonal_(0)  # (i, j) and (j, i) count alike
        position = (similarity.clamp(-1, 1) + 1) * ((self.nbins - 1) / 2)
        # NaN, which stays in the weights, must not become the number of a node.
        left = position.detach().floor().clamp(max=self.nbins - 2).nan_to_num()
        to_right = (position - left) * pairs
        node = left.long() + self.nbins * ~same
        weights = torch.stack([pairs - to_right, to_right])
        nodes = torch.stack([node, node + 1])
        mass = weights.new_zeros(2 * self.nbins).scatter_add(0, nodes.view(-1), weights.view(-1))
        mass = mass.view(2, self.nbins)
        return mass / mass.detach().sum(1, keepdim=True).clamp(min=1)
