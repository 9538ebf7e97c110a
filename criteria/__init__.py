"""Criteria: tensors -> a scalar, and the state that a loss owns; and the features that they teach.

`LOSSES` are the names that `--loss` accepts: criterion(embeddings (B, D), labels (B,)). Those in
`SELF_SUPERVISED` take other tensors instead of labels. `TAKES` says which kind of tuples (see
`batchminer`) a loss expects from its miner; a loss without an entry uses no miner.

`FEATURES` are the names that `--diva_features` accepts, each with the module that holds its class
`Feature` (see `criteria.features`). `NEEDS` says what the rest of the program must provide for a
feature or criterion. Nothing here imports torch, so that options can be checked against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from utilities import registry
from utilities.options import GUEST

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
FEATURES = {
    "discriminative": "criteria.features",
    "selfsimilarity": "criteria.selfsimilarity",
    "shared": "criteria.features",
    "intra": "criteria.features",
    "dc": "criteria.dc",
    "imrot": "criteria.imrot",
    "invariantspread": "criteria.invariantspread",
}
MEANING = {  # of each entry in NEEDS
    "trained head": "the loss reaches the feature's head, whose parameters are trained",
    "second view": "`Batch.second_views`: every image augmented once more",
    "rotated view": "`Batch.rotated_views`: every image turned by quarter turns",
    "even batch": "a batch that can be cut into two equal halves",
    "triplets": "a --loss that takes triplets",
    "unit length": "an architecture that normalises embeddings",
}
NEEDS = {
    "discriminative": {"trained head"},
    "selfsimilarity": {"trained head", "second view"},
    "shared": {"trained head", "triplets"},
    "intra": {"trained head", "triplets"},
    "dc": set(),
    "imrot": {"rotated view"},
    "invariantspread": {"trained head", "second view", "even batch"},
    "fast_moco": {"unit length"},
    "histogram": {"unit length"},
}
assert FEATURES.keys() <= NEEDS.keys(), "a feature without a line in NEEDS"
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
# Losses that compare embeddings with parameters of their own, a proxy or more for each class.
WITH_PROXIES = {"softmax", "arcface", "softtriplet", "proxynca", "oproxy"}


def needs(names: Iterable[str], what: str) -> bool:
    """Whether any of the features or criteria `names` needs `what`, an entry of `MEANING`."""
    assert what in MEANING, what
    return any(what in NEEDS.get(name, ()) for name in names)


def select(name: str, opt, *, n_classes, feature_dim=None, n_samples=None, batchminer=None):
    """The criterion called `name`, built from `opt`; `.lr` is the rate of its own parameters.

    n_classes: training classes; feature_dim: width of the trunk; n_samples: training images;
    batchminer: an object of the `batchminer` folder for the losses that mine.
    UserError for a name that does not exist or a miner whose tuples the loss cannot use.
    """
    arguments = {"n_classes": n_classes, "feature_dim": feature_dim, "n_samples": n_samples,
                 "batchminer": batchminer}
    if name.startswith(GUEST):
        from criteria import guest

        return guest.Criterion.from_opt(name, opt, **arguments)
    module = registry.load(LOSSES | SELF_SUPERVISED, name, flag="--loss")
    check_miner(name, getattr(batchminer, "name", None), getattr(batchminer, "tuples", None))
    return module.Criterion.from_opt(opt, **arguments)


def check_miner(loss: str, miner: str | None, tuples: str | None) -> None:
    """UserError when `loss` cannot use what `miner` returns."""
    takes = TAKES.get(loss)
    if takes and takes != tuples:
        from batchminer import TUPLES
        from utilities.errors import refuse

        fitting = ", ".join(name for name, kind in TUPLES.items() if kind == takes)
        refuse("--batch_mining", f"{miner!r} gives {tuples}, but --loss {loss} takes {takes}",
               fitting)
