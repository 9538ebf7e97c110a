"""Networks: images (B, 3, H, W) -> ({feature: embedding (B, embed_dim)}, trunk (B, feature_dim)).

An `--arch` is `<backbone>[_frozen][_normalize]`, the suffixes in any order; `parse` is its grammar.
A backbone of timm is called `timm:<timm's name>`, see `architectures.guest`.
"""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, NamedTuple

from utilities.errors import refuse
from utilities.options import plain, show

SUFFIXES = ("frozen", "normalize")
TIMM = "timm:"      # prefix of the names of timm's models


class Inputs(NamedTuple):
    """What a backbone wants images to be: `crop` pixels a side, resized by bilinear or bicubic
    `interpolation`, normalised as (pixel / 255 - mean) / std of red, green and blue, with blue
    first where `bgr`."""

    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False
    interpolation: str = "bilinear"


# Backbones that are not fed as ImageNet's networks usually are.
INPUTS = {
    "bninception": Inputs(227, (0.502, 0.4588, 0.4078), (0.0039, 0.0039, 0.0039), bgr=True),
    "googlenet": Inputs(227),
}
# Options that checkpoints of earlier versions lack, and their defaults.
LATER = {"grad_cache_chunk": 0, "val_folds": None, "val_fold": None}
DEFINING = ("arch", "embed_dim", "diva_features")   # options that make a network what it is
NEEDED = {*DEFINING, "bs", "crop_size", "resize", "channels_last", "evaltypes"}  # to use a network


class Arch(NamedTuple):
    """What an `--arch` says: `resnet50_frozen_normalize` -> ("resnet50", True, True)."""

    backbone: str
    frozen: bool
    normalize: bool


def parse(arch: str) -> Arch:
    """Splits `arch` into backbone and suffixes; UserError where it is not of that form.

    Whether the backbone exists is for `check` to say, since that needs torch.
    """
    library = TIMM if arch.startswith(TIMM) else ""
    words = arch.removeprefix(library).split("_")
    word = re.compile(r"[A-Za-z0-9.-]+" if library else r"[^\W_]+")
    given = []
    while words and words[-1] in SUFFIXES:
        given.append(words.pop())
    well_formed = (words and all(map(word.fullmatch, words))
                   and not set(words) & set(SUFFIXES) and len(given) == len(set(given)))
    if not well_formed:
        refuse("--arch", f"cannot read {arch!r}",
               "a backbone's name, then at most once each _frozen and _normalize, e.g. "
               "resnet50_frozen_normalize")
    return Arch(library + "_".join(words), "frozen" in given, "normalize" in given)


def usual_crop(arch: str) -> int:
    """The crop of `inputs(arch)`, which takes no torch to know."""
    return INPUTS.get(parse(arch).backbone, Inputs()).crop


def inputs(arch: str) -> Inputs:
    """What the backbone of `arch` wants images to be. Only timm, which imports torch, knows it of
    its models: UserError where timm or the model does not exist."""
    backbone = parse(arch).backbone
    if not backbone.startswith(TIMM):
        return INPUTS.get(backbone, Inputs())
    from architectures import guest

    return guest.inputs(backbone)


def check(arch: str) -> None:
    """UserError where the backbone does not exist. Called before a dataset is read."""
    from architectures import backbones

    backbones.check(parse(arch).backbone)


def select(arch: str, opt, *, pretrained: bool = True):
    """The Network that `arch` names, with the weights of `--weights_path` or ImageNet's, unless
    `--not_pretrained` is given or other weights will be loaded (pretrained=False).

    UserError for a backbone that does not exist, one that cannot take images of `--crop_size`,
    and weights that cannot be had or do not fit.
    """
    from architectures.network import Network

    network = Network.from_opt(parse(arch), opt, pretrained=pretrained)
    if opt.channels_last:
        import torch

        network = network.to(memory_format=torch.channels_last)
    return network


def load(checkpoint: str | os.PathLike, opt: Namespace | None = None):
    """The Network in `checkpoint`, in evaluation mode on the CPU, and its options (a Namespace).
    `network.trained_on` tells what classes it was trained on.

    The options are those of the training, but for `--precision`, which is fp32, unless `opt` is
    given. `opt` must not contradict them; it is needed for files without options, such as the
    original's. UserError for a file that is no checkpoint or holds another network.
    """
    from architectures import weights

    tensors, stored, trained_on = weights.read_checkpoint(checkpoint)
    if opt is None and not stored.keys() >= NEEDED:
        refuse("--checkpoint", f"{str(checkpoint)!r} does not hold the options of its run",
               "a checkpoint that this program wrote")
    if opt is None:
        opt = Namespace(**{**LATER, **stored, "precision": "fp32"})
    check_options(opt, stored)
    network = select(opt.arch, opt, pretrained=False)
    tensors = weights.resized(network, parse(opt.arch).backbone, opt.crop_size, tensors)
    weights.fit(network, tensors, flag="--checkpoint", source=repr(str(checkpoint)))
    network.trained_on = trained_on
    return network.eval(), opt


def stored_options(checkpoint: str | os.PathLike) -> dict[str, Any]:
    """The options of the run that wrote `checkpoint`, none in other files; imports torch.
    UserError as in `load`."""
    from architectures import weights

    return weights.read_checkpoint(checkpoint).options


def check_options(opt: Namespace, stored: Mapping[str, Any]) -> None:
    """UserError where `opt` describes another network than `stored`, the checkpoint's options."""
    for name in DEFINING:
        given = getattr(opt, name)
        if given != stored.get(name, given):
            refuse(f"--{name}", f"{show(given)} given, but --checkpoint {opt.checkpoint!r} was "
                   f"trained with {show(stored[name])}", f"--{name} {plain(stored[name])}")
