"""Distance-weighted mining with permuted labels: what classes have in common.

DiVA (Milbich et al. 2020, arXiv 2004.13458), section 3.2, for `--diva_sharing random`, as in the
original: the labels of the batch are permuted, then `distance` mines with them. Anchor and positive
have the same permuted label and the negative has another one, whatever their true labels are.
"""

import torch
from torch import Tensor

from batchminer import Triplets, distance


class Miner(distance.Miner):
    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D) unit rows, labels (B,) -> B triplets."""
        # torch.randperm visits the host on some versions and devices.
        order = torch.rand(len(labels), dtype=torch.float64, device=labels.device).argsort()
        return super().__call__(embeddings, labels[order])
