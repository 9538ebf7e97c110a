"""Image models of timm (Wightman 2019, github.com/huggingface/pytorch-image-models): `timm:<name>`.

    trunk = model(images)

with the model that timm builds without a classifier (num_classes=0) and without dropout before it.
`<name>` is timm's, with or without the tag of its weights (vit_small_patch16_224.dino). Mean,
standard deviation and interpolation are those of the tag, without one of timm's first. Models whose
image size is fixed when they are built get `--crop_size`. In a Network's state dict timm's names
stand behind `model.timm.`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from architectures import TIMM, Inputs
from utilities.errors import UserError, refuse
from utilities.guests import one_line

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

INSTALL = 'pip install "timm>=1.0"'
ANSWER = 10         # seconds that the weights' host has to answer in
HUB_FILES = ("model.safetensors", "pytorch_model.bin")      # weights in a repository of the hub


class Model(nn.Module):
    """timm's model: images (B, 3, H, W) -> features (B, d). It is a submodule because some of its
    kind have a `last_linear` of their own, where a Network has its heads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.timm = model

    def forward(self, images: Tensor) -> Tensor:
        return self.timm(images)


def library():
    """The package timm; UserError where it is not installed, or too old."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"--arch: '{TIMM}' needs a library that is not installed ({error}); "
                        f"{INSTALL}") from error
    if int(timm.__version__.split(".")[0]) < 1:
        refuse("--arch", f"'{TIMM}' given, but timm {timm.__version__} is installed",
               f"version 1.0 or later ({INSTALL})")
    return timm


def check(backbone: str) -> None:
    """UserError where timm has no model or no tag of the name in `backbone`, "timm:<name>"."""
    models, name = library().models, backbone.removeprefix(TIMM)
    model, _, tag = name.partition(".")
    if renamed := models.get_deprecated_models().get(name):
        refuse("--arch", f"{backbone!r} is a former name", TIMM + renamed)
    if not models.is_model(model):
        close = difflib.get_close_matches(name, [*models.list_models(), *models.list_pretrained()])
        refuse("--arch", f"timm has no model {name!r}",
               ", ".join(TIMM + other for other in close) or "a name of timm.list_models()")
    tags = list(models.get_arch_pretrained_cfgs(model))
    if "." in name and tag not in (entry.partition(".")[2] for entry in tags):
        refuse("--arch", f"timm has no weights {tag!r} of {model}",
               ", ".join(TIMM + entry for entry in (model, *tags)))


def settings(backbone: str) -> PretrainedCfg:
    """What timm knows of the weights of `backbone`; UserError as in `check`."""
    check(backbone)
    return library().models.get_pretrained_cfg(backbone.removeprefix(TIMM))


def inputs(backbone: str) -> Inputs:
    """What `backbone` wants images to be; the crop is `--crop_size`'s default."""
    published = settings(backbone)
    return Inputs(mean=tuple(published.mean), std=tuple(published.std),
                  interpolation=published.interpolation)


def create(backbone: str, size: int, **arguments) -> nn.Module:
    """timm's model for images of size x size pixels, without its classifier."""
    fixed = {"img_size": size} if settings(backbone).fixed_input_size else {}
    return library().create_model(backbone.removeprefix(TIMM), num_classes=0, drop_rate=0.0,
                                  **fixed, **arguments)


def build(backbone: str, size: int) -> Model:
    """The Model `backbone` with random weights, for images of size x size pixels.

    UserError as in `check`, and where there is no such model for images of that size.
    """
    check(backbone)
    try:
        model = create(backbone, size)
    except Exception as error:      # of timm, in any form
        refuse_size(backbone, size, error)
    for module in model.modules():
        if hasattr(module, "attention_bias_cache"):
            module.__class__ = uncached(type(module))
    return Model(model)


@functools.cache
def uncached(kind: type[nn.Module]) -> type[nn.Module]:
    """An attention layer of timm that computes its biases anew in every pass. timm keeps them while
    the layer is in evaluation mode, in which the weights of a key network move."""
    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]

    return type(kind.__name__, (kind,), {"get_attention_biases": get_attention_biases})


@torch.no_grad()
def feature_dim(model: Model, backbone: str, size: int) -> int:
    """Width of the features of images of size x size pixels, of which one is computed: timm's
    models keep tensors outside of their state.

    UserError where `model` cannot take images of that size, cuts off their edges, or does not pool.
    """
    patches = getattr(model.timm, "patch_embed", None)
    if isinstance(patches, library().layers.PatchEmbed) and not patches.dynamic_img_pad:
        patch, _ = patches.patch_size
        if size % patch:
            refuse("--crop_size", f"--arch {backbone} cuts images into patches of {patch} x {patch}"
                   f" pixels, which {size} is no multiple of",
                   f"e.g. {max(1, round(size / patch)) * patch}")
    training = model.training
    try:
        shape = model.eval()(torch.zeros(1, 3, size, size)).shape
    except Exception as error:      # of timm, in any form
        refuse_size(backbone, size, error)
    finally:
        model.train(training)
    if len(shape) != 2:
        refuse("--arch", f"{backbone} gives {len(shape) - 1}-dimensional features of an image",
               "a model of timm that pools")
    return shape[1]


def refuse_size(backbone: str, size: int, error: Exception) -> NoReturn:
    """The UserError for the `error` of a model that got or was to get images of that size."""
    own, reason = settings(backbone).input_size[-1], one_line(error)[:200]
    if size == own:
        refuse("--arch", f"timm cannot use {backbone} here ({reason})", "another model of timm")
    refuse("--crop_size", f"--arch {backbone} cannot take images of {size} x {size} pixels "
           f"({reason})", f"e.g. {own}")


def published_weights(backbone: str, size: int) -> tuple[str, dict[str, Tensor]]:
    """Where the published weights of `backbone` come from, and what timm reads in them for images
    of size x size pixels: from the file of an earlier download, else by timm's download.

    UserError, with the alternatives, where there are none, the file is damaged or the download
    fails.
    """
    if path := cached(backbone):
        try:
            # Earlier versions of timm would take a file for one in JAX's format, where that is
            # what the weights were first published in.
            return repr(path), read(backbone, size, {"file": path, "custom_load": False})
        except Exception as error:      # of timm or torch, in any form
            refuse("--arch", f"cannot read the weights of {backbone} from {path!r} "
                   f"({one_line(error)[:200]})", "that file, deleted to fetch it again")
    return backbone, download(backbone, size)


def cached(backbone: str) -> str | None:
    """The file of published weights that an earlier download left, None without one."""
    import huggingface_hub

    published = settings(backbone)
    if published.url and not published.hf_hub_id:
        path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(published.url).path).name)
        return str(path) if path.is_file() else None
    for name in (published.hf_hub_filename,) if published.hf_hub_filename else HUB_FILES:
        found = published.hf_hub_id and huggingface_hub.try_to_load_from_cache(
            published.hf_hub_id, name)
        if isinstance(found, str):
            return found
    return None


def read(backbone: str, size: int, source: dict | None = None) -> dict[str, Tensor]:
    """What timm makes of the weights of `backbone` for images of size x size pixels. source: the
    entries of timm's settings that say where they are, where it is not timm's own place."""
    with torch.random.fork_rng(devices=[]):
        return create(backbone, size, pretrained=True,
                      pretrained_cfg_overlay=source).state_dict()


def download(backbone: str, size: int) -> dict[str, Tensor]:
    """The published weights of `backbone` for images of size x size pixels, by timm's download.

    UserError, with the alternatives, where there are none or the download fails.
    """
    import huggingface_hub

    published = settings(backbone)
    if not published.has_weights:
        refuse("--arch", f"timm has no weights of {backbone}",
               "--weights_path, --not_pretrained, or another model")
    source = published.url
    if published.hf_hub_id:
        source = f"{huggingface_hub.constants.ENDPOINT}/{published.hf_hub_id}"
    try:
        # Any answer will do. Without one the hub's client would try for most of a minute.
        huggingface_hub.get_session().head(source, timeout=ANSWER)
        return read(backbone, size)
    except Exception as error:      # of the network, the disk or what came
        refuse("--arch", f"the weights of {backbone} could not be downloaded from {source} "
               f"({one_line(error)[:200]})",
               "--weights_path with a copy of them (.safetensors, .pth), or --not_pretrained")


def fitting(backbone: str, size: int, tensors: Mapping[str, Tensor], model: nn.Module
            ) -> dict[str, Tensor]:
    """`tensors`, weights under timm's names or others that timm reads, for timm's `model` of images
    of size x size pixels: without the classifier, position embeddings resampled by timm. Unchanged
    where timm does not know what to do with them."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    names = settings(backbone).classifier or ()
    # A BatchNorm may stand beside the linear layer, which timm calls the classifier. Inception's
    # files hold its auxiliary classifier, too.
    heads = ("AuxLogits.", *(f"{name.rpartition('.')[0] or name}." for name in
                             ((names,) if isinstance(names, str) else names)))
    tensors = {name: tensor for name, tensor in tensors.items()
               if name in wanted or not name.startswith(heads)}
    if {name: tensor.shape for name, tensor in tensors.items()} == wanted:
        return tensors

    def converted(further: dict[str, Tensor]) -> dict[str, Tensor] | None:
        try:
            return read(backbone, size, {"state_dict": tensors | further, "num_classes": 0})
        except Exception:       # of timm, in any form
            return None

    # timm loads some families leniently: it would overlook a weight that is missing or left over.
    # Where it takes a weight of no model, too, the tensors stay, and the caller compares them.
    if converted({"no weight of any model": torch.zeros(1)}):
        return tensors
    return converted({}) or tensors
