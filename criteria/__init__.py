"""Criteria: tensors -> a scalar, and the state that a loss owns; and the features that they teach.

`PARTS` is the one table of both. Nothing here imports torch, so that options can be checked against
it.
"""

import importlib
from collections.abc import Iterable, Set
from typing import NamedTuple

import batchminer
import datasampler
from utilities import registry
from utilities.errors import refuse
from utilities.options import GUEST


class Part(NamedTuple):
    """A line of the table. The name of a part is its key there.

    A part of `--loss` is a criterion(embeddings (B, D), labels (B,)). The criteria of other flags
    take other tensors. A part of `--diva_features` has a class `Feature` (see `criteria.features`).
    Its criterion is that of `--loss` or of `--diva_ssl`, or the `Criterion` in the same module.
    """

    flag: str                               # which accepts the name
    module: str                             # that holds the class `Criterion`, `Feature` or both
    needs: Set[str] = frozenset()           # entries of `MEANING`


MEANING = {  # of what a part can need from the rest of the program
    "triplets": "a miner that gives triplets; for a feature, a --loss that takes them",
    "npairs": "a miner that gives pairs with sets of negatives",
    "sets": "a miner that gives sets of positives and negatives",
    "pairs": "positive and negative pairs in the batch, which it finds without a miner",
    "labels": "class labels, compared by --loss",
    "unit length": "an architecture that normalises embeddings",
    "trunk alone": "a loss on the trunk; the feature's head stays a random projection of it",
    "second view": "`Batch.second_views`: every image augmented once more",
    "rotated view": "`Batch.rotated_views`: every image turned by quarter turns",
    "even batch": "a batch that can be cut into two equal halves",
    "numbered images": "the same number of training images throughout",
}
PARTS = {
    "margin": Part("--loss", "criteria.margin", {"triplets"}),
    "triplet": Part("--loss", "criteria.triplet", {"triplets"}),
    "contrastive": Part("--loss", "criteria.contrastive", {"triplets"}),
    "npair": Part("--loss", "criteria.npair", {"npairs"}),
    "angular": Part("--loss", "criteria.angular", {"npairs"}),
    "lifted": Part("--loss", "criteria.lifted", {"sets"}),
    "multisimilarity": Part("--loss", "criteria.multisimilarity", {"pairs"}),
    "histogram": Part("--loss", "criteria.histogram", {"pairs", "unit length"}),
    "quadruplet": Part("--loss", "criteria.quadruplet", {"triplets"}),
    "snr": Part("--loss", "criteria.snr", {"triplets"}),
    "softmax": Part("--loss", "criteria.softmax"),
    "arcface": Part("--loss", "criteria.arcface"),
    "softtriplet": Part("--loss", "criteria.softtriplet"),
    "proxynca": Part("--loss", "criteria.proxynca"),
    "oproxy": Part("--loss", "criteria.oproxy"),
    "moco": Part("--diva_ssl", "criteria.moco"),
    "fast_moco": Part("--diva_ssl", "criteria.fast_moco", {"unit length"}),
    "adversarial_separation": Part("--diva_decorrelations", "criteria.adversarial_separation"),
    "discriminative": Part("--diva_features", "criteria.features", {"labels"}),
    "selfsimilarity": Part("--diva_features", "criteria.selfsimilarity", {"second view"}),
    "shared": Part("--diva_features", "criteria.features", {"labels", "triplets"}),
    "intra": Part("--diva_features", "criteria.features", {"labels", "triplets"}),
    # Controls for the number of heads: taught as `discriminative` is, each by its own criterion.
    "ensemble_1": Part("--diva_features", "criteria.features", {"labels"}),
    "ensemble_2": Part("--diva_features", "criteria.features", {"labels"}),
    "ensemble_3": Part("--diva_features", "criteria.features", {"labels"}),
    "dc": Part("--diva_features", "criteria.dc", {"trunk alone", "numbered images"}),
    "imrot": Part("--diva_features", "criteria.imrot", {"trunk alone", "rotated view"}),
    "invariantspread": Part("--diva_features", "criteria.invariantspread",
                            {"second view", "even batch"}),
}
LOSSES, FEATURES = (
    {name: part.module for name, part in PARTS.items() if part.flag == flag}
    for flag in ("--loss", "--diva_features"))
# The kind of tuples (see `batchminer`) that each loss takes from a miner; others use no miner.
TAKES = {name: kind for name in LOSSES for kind in ("triplets", "npairs", "sets")
         if kind in PARTS[name].needs}
# The miners of two features, by --diva_sharing and --diva_intra.
SHARING = {"random": "random_distance", "standard": "shared_neg_distance",
           "full": "shared_full_distance"}
INTRA = {"random": "intra_random"}


def needs(names: Iterable[str], what: str) -> bool:
    """Whether any of the parts `names` needs `what`, an entry of `MEANING`."""
    assert what in MEANING, what
    return any(name in PARTS and what in PARTS[name].needs for name in names)


def miner_of(feature: str, opt) -> str:
    """The miner of a feature that is taught by labels."""
    return {"shared": SHARING[opt.diva_sharing],
            "intra": INTRA[opt.diva_intra]}.get(feature, opt.batch_mining)


def fewest(feature: str, opt) -> tuple[int, int]:
    """How many images of one class, and how many classes, a feature that is taught by labels
    compares."""
    mines = opt.loss in TAKES or needs([feature], "triplets")
    return batchminer.OTHER_FEWEST.get(
        miner_of(feature, opt) if mines else None, batchminer.FEWEST)


def fewest_classes(opt) -> int:
    """How many training classes the features that are taught by labels need; 0 without any."""
    return max((max(fewest(name, opt)[1], batchminer.FEWEST[1])
                for name in opt.diva_features if needs([name], "labels")), default=0)


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
    if name not in PARTS:
        registry.check(name, LOSSES, flag="--loss")
    check_miner(name, getattr(batchminer, "name", None), getattr(batchminer, "tuples", None))
    return importlib.import_module(PARTS[name].module).Criterion.from_opt(opt, **arguments)


def check_miner(loss: str, miner: str | None, tuples: str | None) -> None:
    """UserError when `loss` cannot use what `miner` returns."""
    takes = TAKES.get(loss)
    if takes and takes != tuples:
        fitting = ", ".join(name for name, kind in batchminer.TUPLES.items() if kind == takes)
        refuse("--batch_mining", f"{miner!r} gives {tuples}, but --loss {loss} takes {takes}",
               fitting)


def check_batches(opt, n_images: int, n_classes: int, what: str) -> None:
    """UserError where no batch holds n_images of one class and n_classes, which `what` compares."""
    size, n_drawn = datasampler.group_size(opt), opt.bs
    if needs(opt.diva_features, "even batch"):  # whose first half the networks see in two views
        n_drawn, n_images = n_drawn // 2, -(-n_images // 2)
    by_class = opt.data_sampler in datasampler.BY_CLASS
    if by_class and size < n_images:
        refuse("--samples_per_class", f"{size} given, but {what} compares images of one class",
               f"at least {n_images}")
    room = -(-n_drawn // size) if size > 1 else n_drawn - n_images + 1
    if room < n_classes:
        pair = " and two images of one" * (n_images > 1)
        refuse("--bs", f"{opt.bs} given, but no batch of --data_sampler {opt.data_sampler} then "
               f"holds {n_classes} classes{pair}, which {what} compares",
               "a larger one" + " or a smaller --samples_per_class" * by_class)
