"""Backbones by name, without weights and without their classifiers.

A name that both libraries know is built by torchvision, except ResNet50, which comes from
`pretrainedmodels` as in the original. For these names both build the same network. BN-Inception is
in `pretrainedmodels` only. Names that begin with `timm:` are timm's, see `architectures.guest`.
"""

import copy
import itertools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from architectures import INPUTS, TIMM, guest
from utilities import registry
from utilities.errors import refuse

# On import the library builds two ResNeXts (480 MB) and keeps them. On the meta device they take
# no memory.
with warnings.catch_warnings(), torch.device("meta"):
    warnings.simplefilter("ignore", SyntaxWarning)  # raised when it is first compiled
    import pretrainedmodels

TORCHVISION = [name for name in models.list_models(module=models) if name != "resnet50"]
PRETRAINEDMODELS = [name for name in pretrainedmodels.model_names if name not in TORCHVISION]

# Attributes of the libraries' networks: the classifier, and auxiliary branches for training.
CLASSIFIERS = ("fc", "classifier", "heads", "head")
DROPPED = (*CLASSIFIERS, "last_linear", "AuxLogits", "aux1", "aux2")

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_space": "RGB",
            "input_range": [0, 1]}


class Pooled(nn.Module):
    """A backbone with its pooling: images (B, 3, H, W) -> features (B, d)."""

    def __init__(self, model: nn.Module, pool: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.model, images)


class Renormalise(nn.Module):
    """Images with ImageNet's normalisation -> with the one that the weights were trained with."""

    def __init__(self, mean: list[float], std: list[float], input_space: str,
                 input_range: list[float]):
        super().__init__()
        self.bgr = input_space == "BGR"
        source, target = torch.tensor([[IMAGENET["mean"], IMAGENET["std"]], [mean, std]])
        if self.bgr:
            source = source.flip(1)
        source = source * input_range[1]
        scale, shift = source[1] / target[1], (source[0] - target[0]) / target[1]
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flip(1) if self.bgr else images) * self.scale + self.shift


def check(name: str) -> None:
    """UserError where no library has the network `name`."""
    if name.startswith(TIMM):
        return guest.check(name)
    registry.check(name, sorted(TORCHVISION + PRETRAINEDMODELS), flag="--arch")


def build(name: str, size: int = 224) -> Pooled:
    """The network `name` with random weights, for images of size x size pixels; UserError where
    no library has it."""
    check(name)
    if name.startswith(TIMM):
        return Pooled(guest.build(name, size), call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # pretrainedmodels uses torchvision's older interface
        return _pretrainedmodels(name) if name in PRETRAINEDMODELS else _torchvision(name)


def weights_url(name: str) -> str:
    """Where the library of `name` publishes the ImageNet weights that papers use (V1)."""
    if name in PRETRAINEDMODELS:
        return _settings(name)["url"]
    published = {weights.name: weights.url for weights in models.get_model_weights(name)}
    return published.get("IMAGENET1K_V1") or published["IMAGENET1K_SWAG_LINEAR_V1"]


def feature_dim(backbone: Pooled, name: str, size: int) -> int:
    """Width of the features of images of size x size pixels, without computing them.

    UserError where `backbone` cannot take images of that size.
    """
    if name.startswith(TIMM):
        return guest.feature_dim(backbone.model, name, size)
    width = width_of(backbone, size)
    if width is None:
        others = (*range(size + 1, size + 65), 224, 299)
        fitting = next((s for s in others if width_of(backbone, s)), "another size")
        refuse("--crop_size", f"--arch {name} cannot take images of {size} x {size} pixels",
               f"e.g. {fitting}")
    return width


def width_of(backbone: Pooled, size: int) -> int | None:
    """As `feature_dim`, but None where `backbone` cannot take images of that size."""
    tensors = itertools.chain(backbone.named_parameters(), backbone.named_buffers())
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    images = torch.empty(1, 3, size, size, device="meta")
    training = backbone.training
    try:
        return torch.func.functional_call(backbone.eval(), meta, (images,)).shape[1]
    except (RuntimeError, AssertionError, ValueError):
        return None
    finally:
        backbone.train(training)


def _settings(name: str) -> dict:
    published = pretrainedmodels.pretrained_settings[name]
    return published.get("imagenet") or published["imagenet+5k"]


def _pretrainedmodels(name: str) -> Pooled:
    model = getattr(pretrainedmodels, name)(num_classes=1000, pretrained=None)
    if any(tensor.is_meta for tensor in model.parameters()):
        model = initialised(model)
    model.last_linear = nn.Identity()
    if hasattr(model, "AuxLogits"):
        model.aux_logits = False
        del model.AuxLogits
    inputs = {key: _settings(name)[key] for key in IMAGENET}
    same = name in INPUTS or inputs == IMAGENET     # images come as `architectures.inputs` says
    model.renormalise = nn.Identity() if same else Renormalise(**inputs)
    return Pooled(model, pooled_features)


def initialised(model: nn.Module) -> nn.Module:
    """A copy on the CPU, with random weights, of `model`, which lies on the meta device."""
    model = copy.deepcopy(model).to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """Global average of the last feature map, for any image size.

    The library's pooling has windows of a fixed size. Some of its networks leave their last ReLU to
    the classifier; the features of the others are not negative, so ReLU does not change them.
    """
    return F.relu(model.features(model.renormalise(images))).mean((2, 3))


def _torchvision(name: str) -> Pooled:
    flags = {}
    if name in ("googlenet", "inception_v3"):
        # Their weights were trained on inputs in [-1, 1], images have ImageNet's normalisation.
        flags = {"aux_logits": False, "transform_input": True}
    model = models.get_model(name, weights=None, **flags)
    classifier = next(entry for entry in CLASSIFIERS if hasattr(model, entry))
    setattr(model, classifier, _pooling_of(name, getattr(model, classifier)))
    if hasattr(model, "avgpool"):
        model.avgpool = nn.AdaptiveAvgPool2d(1)     # VGG and AlexNet pool to 7 x 7 and 6 x 6
    if isinstance(getattr(model, "dropout", None), nn.Dropout):
        model.dropout = nn.Identity()               # before GoogLeNet's and Inception's classifier
    return Pooled(model, call)


def call(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _pooling_of(name: str, classifier: nn.Module) -> nn.Module:
    """The part of `classifier` that makes the features: its leading pooling and normalisation."""
    if name.startswith("squeezenet"):
        return nn.AdaptiveAvgPool2d(1)
    if not isinstance(classifier, nn.Sequential):
        return nn.Identity()
    kept = itertools.takewhile(
        lambda child: not isinstance(child, (nn.Linear, nn.Dropout)), classifier)
    return classifier[:len(list(kept))]
