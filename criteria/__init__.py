"""Criteria: tensors -> a scalar, and the state that a loss owns.

`LOSSES` are what `--loss` takes: criterion(embeddings (B, D), labels (B,)). `SELF_SUPERVISED` take
what they need instead of labels. `TAKES` says which kind of tuples (see `batchminer`) a loss wants
from its miner; a loss that is not in it mines nothing.
"""

from __future__ import annotations

from utilities import registry

LOSSES = {
    "margin": "criteria.margin",
    "triplet": "criteria.triplet",
    "contrastive": "criteria.contrastive",
    "npair": "criteria.npair",
    "angular": "criteria.angular",
    "lifted": "criteria.lifted",
    "multisimilarity": "criteria.multisimilarity",
    "histogram": "criteria.histogram",
    "quadruplet": "criteria.quadruplet",
    "snr": "criteria.snr",
    "softmax": "criteria.softmax",
    "arcface": "criteria.arcface",
    "softtriplet": "criteria.softtriplet",
    "proxynca": "criteria.proxynca",
    "oproxy": "criteria.oproxy",
}
SELF_SUPERVISED = {
    "moco": "criteria.moco",
    "fast_moco": "criteria.fast_moco",
    "dc": "criteria.dc",
    "imrot": "criteria.imrot",
    "invariantspread": "criteria.invariantspread",
    "adversarial_separation": "criteria.adversarial_separation",
}
TAKES = {
    "margin": "triplets",
    "triplet": "triplets",
    "contrastive": "triplets",
    "quadruplet": "triplets",
    "snr": "triplets",
    "npair": "npairs",
    "angular": "npairs",
    "lifted": "sets",
}


def select(name: str, opt, *, n_classes, feature_dim=None, n_samples=None, batchminer=None):
    """The criterion called `name`, built from `opt`; `.lr` is the rate of its own parameters.

    n_classes: training classes; feature_dim: width of the trunk; n_samples: training images;
    batchminer: an object of the `batchminer` folder for the losses that mine.
    UserError for a name that does not exist or a miner whose tuples the loss cannot use.
    """
    facts = {"n_classes": n_classes, "feature_dim": feature_dim, "n_samples": n_samples,
             "batchminer": batchminer}
    if name.startswith("pml:"):
        from criteria import guest

        return guest.Criterion.from_opt(name, opt, **facts)
    module = registry.load(LOSSES | SELF_SUPERVISED, name, flag="--loss")
    check_miner(name, getattr(batchminer, "name", None), getattr(batchminer, "tuples", None))
    return module.Criterion.from_opt(opt, **facts)


def check_miner(loss: str, miner: str | None, tuples: str | None) -> None:
    """UserError when `loss` cannot use what `miner` returns."""
    takes = TAKES.get(loss)
    if takes and takes != tuples:
        from batchminer import TUPLES
        from utilities.errors import UserError

        fitting = ", ".join(name for name, kind in TUPLES.items() if kind == takes)
        raise UserError(f"--batch_mining: {miner!r} gives {tuples}, but --loss {loss} takes "
                        f"{takes}; accepted: {fitting}")
