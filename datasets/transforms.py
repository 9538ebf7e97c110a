"""Augmentations, by torchvision.transforms.v2.

Each `..._transform` maps an RGB image of PIL to a tensor (3, crop, crop) uint8. torchvision draws
every random number from the CPU's global generator, which `augment` seeds and restores.
"""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import v2

GRAYSCALE = 0.2                             # probability
JITTER = {"adv": 0.2, "realistic": 0.4}     # of brightness, contrast, saturation and hue


def training_transform(augmentation: str, crop: int, resize: int) -> v2.Compose:
    """augmentation: base, adv, big (base with larger crops), red or realistic.

    RandomResizedCrop takes 8 to 100 % of the area at aspect ratios from 3/4 to 4/3.
    """
    if augmentation == "red":
        return v2.Compose([v2.Resize(resize), v2.RandomCrop(crop), v2.RandomHorizontalFlip(),
                           v2.PILToTensor()])
    colour = []
    if augmentation in JITTER:
        strength = JITTER[augmentation]
        colour = [v2.RandomGrayscale(GRAYSCALE),
                  v2.ColorJitter(strength, strength, strength, strength)]
    return v2.Compose([v2.RandomResizedCrop(crop), *colour, v2.RandomHorizontalFlip(),
                       v2.PILToTensor()])


def evaluation_transform(crop: int, resize: int) -> v2.Compose:
    """The short side becomes `resize` pixels, of which the centre is taken."""
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(crop), v2.PILToTensor()])


def rotated_transform(crop: int, resize: int) -> v2.Compose:
    """A square crop, whole after any quarter turn: black corners would reveal the angle."""
    return v2.Compose([v2.Resize(resize), v2.RandomCrop(crop), v2.PILToTensor()])


def augment(transform: v2.Transform, image: Image.Image, seed: int) -> torch.Tensor:
    """transform(image), with random numbers that depend only on `seed` (on 32 bits of it, as many
    as the generator takes). Restores the generator, from which miners and dropout draw."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(image)
