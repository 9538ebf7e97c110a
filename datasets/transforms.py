"""Augmentations, by torchvision.transforms.v2.

Each `..._transform` maps an RGB image of PIL to a tensor (3, crop, crop) uint8. torchvision draws
every random number from the CPU's global generator, which `augment` seeds and restores. Two steps
are written here because torchvision's take noticeable time for a single image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from utilities.random_streams import stream

GRAYSCALE = 0.2                             # probability
JITTER = {"adv": 0.2, "realistic": 0.4}     # of brightness, contrast, saturation and hue


class ColorJitter(v2.ColorJitter):
    """torchvision's, with the order of its changes as numbers instead of tensors."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        parameters = super().make_params(flat_inputs)
        return parameters | {"fn_idx": parameters["fn_idx"].tolist()}


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) uint8 with the memory layout of the image, in which colours come last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def training_transform(augmentation: str, crop: int, resize: int) -> v2.Compose:
    """augmentation: base, adv, big (base with larger crops), red or realistic.

    RandomResizedCrop takes 8 to 100 % of the area at aspect ratios from 3/4 to 4/3.
    """
    if augmentation == "red":
        return v2.Compose([v2.Resize(resize), v2.RandomCrop(crop), v2.RandomHorizontalFlip(),
                           to_tensor])
    colour = []
    if augmentation in JITTER:
        strength = JITTER[augmentation]
        colour = [v2.RandomGrayscale(GRAYSCALE),
                  ColorJitter(strength, strength, strength, strength)]
    return v2.Compose([v2.RandomResizedCrop(crop), *colour, v2.RandomHorizontalFlip(), to_tensor])


def evaluation_transform(crop: int, resize: int) -> v2.Compose:
    """The short side becomes `resize` pixels, of which the centre is taken."""
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(crop), to_tensor])


def rotated_transform(crop: int, resize: int) -> v2.Compose:
    """A square crop, whole after any quarter turn: black corners would reveal the angle."""
    return v2.Compose([v2.Resize(resize), v2.RandomCrop(crop), to_tensor])


def augment(transform: v2.Transform, image: Image.Image, *numbers: int) -> torch.Tensor:
    """transform(image), with random numbers that depend only on the numbers given."""
    with stream(*numbers):
        return transform(image)
