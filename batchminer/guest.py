"""Miners of pytorch-metric-learning (Musgrave et al. 2020, arXiv 2008.09164):
`--batch_mining pml:<Class>`.

`--pml_miner_args` holds the constructor's arguments (see `utilities.guests`). The losses of this
repository get triplets: the guest's, or where it mines pairs (a1, p) and (a2, n) all triplets
(a, p, n) with a = a1 = a2. The library's losses get the unchanged answer of the guest by `raw`.
Unlike the miners of this repository, a guest may wait for the device, and T varies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import datasampler
from batchminer import Triplets
from utilities import guests
from utilities.errors import refuse


class Miner:
    def __init__(self, name: str, miner: nn.Module):
        self.name, self.miner = name, miner

    @classmethod
    def from_opt(cls, name: str, opt):
        """UserError where the guest cannot mine from random embeddings of a batch."""
        miner = cls(name, guests.build(name, "miners", opt.pml_miner_args, flag="--batch_mining",
                                       arguments_flag="--pml_miner_args"))
        with torch.random.fork_rng(devices=[]):
            for what, labels in datasampler.examples(opt, n_classes=opt.bs).items():
                embeddings = F.normalize(torch.randn(len(labels), opt.embed_dim))
                try:
                    miner(embeddings, torch.tensor(labels))
                except guests.GuestError as error:
                    batch = f" of a batch with {what}" if what else ""
                    refuse("--batch_mining", f"{name} cannot mine from embeddings and "
                           f"labels{batch}: {guests.one_line(error)}",
                           "a miner that can, its arguments by --pml_miner_args")
        return miner

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Triplets:
        """embeddings (B, D), labels (B,) -> what was mined, or one triplet that is not valid."""
        indices = self.raw(embeddings, labels)
        if len(indices) == 4:
            first, positives, second, negatives = indices
            pairs, others = torch.where(first[:, None] == second)
            indices = first[pairs], positives[pairs], negatives[others]
        valid = torch.ones_like(indices[0], dtype=torch.bool)
        if not len(valid):
            indices, valid = labels.new_zeros(3, 1).long().unbind(), valid.new_zeros(1)
        return Triplets(*indices, valid)

    @torch.no_grad()
    def raw(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """-> (anchors, positives, negatives) or (anchors, positives, anchors, negatives)."""
        with guests.explain(self.name, flag="--batch_mining"):
            return tuple(rows.to(labels.device, torch.int64)
                         for rows in self.miner(embeddings, labels))
