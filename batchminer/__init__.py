"""Miners: embeddings (B, D), labels (B,) -> index tensors on the same device.

The number T of tuples depends on the batch size alone, so that nothing waits for the device: an
anchor without a positive or a negative is kept and marked not valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from utilities import registry
from utilities.options import GUEST

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
# Which of the three kinds below each returns.
TUPLES = {name: "triplets" for name in MINERS} | {"npair": "npairs", "lifted": "sets"}
# How many images of a class, and how many classes, a batch must hold for a tuple to be valid, where
# that is not FEWEST: a positive and a negative.
FEWEST = (2, 2)
OTHER_FEWEST = {"shared_neg_distance": (1, 3), "shared_full_distance": (1, 3),
                "intra_random": (2, 1)}


class Triplets(NamedTuple):
    """Kind "triplets": three tensors (T,) int64 of rows of the batch, and (T,) bool."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor


class Pairs(NamedTuple):
    """Kind "npairs": anchors and positives (T,) int64, negatives (T, B) bool, valid (T,) bool."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor


class Sets(NamedTuple):
    """Kind "sets": every row is an anchor; positives and negatives (B, B) bool, valid (B,) bool."""

    positives: Tensor
    negatives: Tensor
    valid: Tensor


def select(name: str, opt):
    """The miner called `name`, built from `opt`. Its attributes `name` and `tuples` say what it is
    and which kind it returns. UserError for a name that does not exist.
    """
    if name.startswith(GUEST):
        from batchminer import guest as module
    else:
        module = registry.load(MINERS, name, flag="--batch_mining")
    miner = module.Miner.from_opt(name, opt)
    miner.name, miner.tuples = name, TUPLES.get(name, "triplets")
    return miner
