"""Miners: embeddings (B, D), labels (B,) -> index tensors on the same device.

A miner has a `name`, and `tuples` says which of the three kinds below it returns. T depends on the
batch size alone, so nothing waits for the device: an anchor that has no positive or no negative
stays and is marked not valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from utilities import registry

if TYPE_CHECKING:
    from torch import Tensor

MINERS = {
    "random": "batchminer.random",
    "semihard": "batchminer.semihard",
    "softhard": "batchminer.softhard",
    "distance": "batchminer.distance",
    "rho_distance": "batchminer.rho_distance",
    "anticollapse_distance": "batchminer.anticollapse_distance",
    "anticollapse_cdistance": "batchminer.rho_distance",
    "anticollapse_semihard": "batchminer.softhard",
    "parametric": "batchminer.parametric",
    "npair": "batchminer.npair",
    "lifted": "batchminer.lifted",
    "random_distance": "batchminer.random_distance",
    "shared_neg_distance": "batchminer.shared_distance",
    "shared_full_distance": "batchminer.shared_distance",
    "intra_random": "batchminer.intra_random",
}
TUPLES = {name: "triplets" for name in MINERS} | {"npair": "npairs", "lifted": "sets"}


class Triplets(NamedTuple):
    """"triplets": (T,) int64 rows of the batch, thrice, and (T,) bool."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor


class Pairs(NamedTuple):
    """"npairs": (T,) int64 anchors and positives, (T, B) bool negatives, (T,) bool."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor


class Sets(NamedTuple):
    """"sets": every row an anchor; (B, B) bool positives and negatives, (B,) bool."""

    positives: Tensor
    negatives: Tensor
    valid: Tensor


def select(name: str, opt):
    """The miner called `name`, built from `opt`; UserError for a name that does not exist."""
    if name.startswith("pml:"):
        from batchminer import guest

        return guest.Miner.from_opt(name, opt)
    return registry.load(MINERS, name, flag="--batch_mining").Miner.from_opt(name, opt)
