"""Networks: images (B, 3, H, W) -> ({feature: embedding (B, embed_dim)}, trunk (B, feature_dim)).

An `--arch` is `<backbone>[_frozen][_normalize]`, the suffixes in any order; `parse` is its grammar.
"""

from __future__ import annotations

from typing import NamedTuple

from utilities.errors import UserError

SUFFIXES = ("frozen", "normalize")


class Arch(NamedTuple):
    """What an `--arch` says: `resnet50_frozen_normalize` -> ("resnet50", True, True)."""

    backbone: str
    frozen: bool
    normalize: bool


def parse(arch: str) -> Arch:
    """Splits `arch` into backbone and suffixes; UserError where it is not of that form.

    Whether the backbone exists is known only where networks are built: `check` says.
    """
    words = arch.split("_")
    given = []
    while words and words[-1] in SUFFIXES:
        given.append(words.pop())
    well_formed = (words and all(word.isalnum() for word in words)
                   and not set(words) & set(SUFFIXES) and len(given) == len(set(given)))
    if not well_formed:
        raise UserError(f"--arch: cannot read {arch!r}; accepted: a backbone's name, then at most "
                        "once each _frozen and _normalize, e.g. resnet50_frozen_normalize")
    return Arch("_".join(words), "frozen" in given, "normalize" in given)


def check(arch: str) -> None:
    """UserError where there is no such backbone: at once, before a dataset is read."""
    from architectures import backbones

    backbones.check(parse(arch).backbone)


def select(arch: str, opt, *, pretrained: bool = True):
    """The Network that `arch` names, with ImageNet weights unless `--not_pretrained`, or where
    others are going to be loaded (pretrained=False).

    UserError for a backbone that does not exist, one that cannot take images of `--crop_size`,
    and weights that cannot be had or do not fit.
    """
    from architectures.network import Network

    network = Network.from_opt(parse(arch), opt, pretrained=pretrained)
    if opt.channels_last:
        import torch

        network = network.to(memory_format=torch.channels_last)
    return network
