"""Augmentations, by torchvision.transforms.v2.

Each `..._transform` maps an RGB image of PIL to a tensor (3, crop, crop) uint8. torchvision draws
every random number from the CPU's global generator, which `augment` seeds and restores. Two steps
are written here because torchvision's take noticeable time for a single image.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from utilities.random_streams import stream

GRAYSCALE = 0.2                             # probability
JITTER = {"adv": 0.2, "realistic": 0.4}     # of brightness, contrast, saturation and hue
LONG = 10                                   # times the short side


class ColorJitter(v2.ColorJitter):
    """torchvision's, with the order of its changes as numbers instead of tensors."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        parameters = super().make_params(flat_inputs)
        return parameters | {"fn_idx": parameters["fn_idx"].tolist()}


class ResizedThenCropped(v2.Compose):
    """v2.Resize, a crop and further steps. A long image is cut to what survives the crop before it
    is enlarged. The pixels are the same, but one of 20,000 x 2 would become 2,560,000 x 256."""

    def forward(self, image: Image.Image) -> torch.Tensor:
        resize, crop, *rest = self.transforms
        short = min(image.size)
        if max(image.size) <= LONG * short or resize.size[0] <= short:
            return super().forward(image)
        height, width = resized_sides(resize, (image.height, image.width))
        top, left = crop_corner(crop, (height, width))
        left, right, columns = shares(image.width, width, left, crop.size[1])
        top, bottom, rows = shares(image.height, height, top, crop.size[0])
        pixels = np.asarray(image.crop((left, top, right, bottom)))
        pixels = to_bytes(np.einsum("xw,hwc->hxc", columns, pixels, optimize=True))
        pixels = to_bytes(np.einsum("yh,hxc->yxc", rows, pixels, optimize=True))
        image = Image.fromarray(pixels)
        for step in rest:
            image = step(image)
        return image


def shares(n: int, resized: int, first: int, count: int) -> tuple[int, int, np.ndarray]:
    """How the `count` pixels from `first` on are made where `n` pixels become `resized`: of the
    source pixels from begin to end (excluded), by shares (count, end - begin) in units of 2**-22.
    The numbers are those of Pillow's bilinear filter, which reaches one source pixel far where an
    image is enlarged."""
    centres = (np.arange(first, first + count) + 0.5) * (n / resized)
    begin, end = max(0, int(centres[0] - 1)), min(n, int(centres[-1] + 1) + 1)
    weights = np.maximum(1 - np.abs(np.arange(begin, end) + 0.5 - centres[:, None]), 0)
    return begin, end, np.floor(weights / weights.sum(1, keepdims=True) * 2**22 + 0.5)


def to_bytes(sums: np.ndarray) -> np.ndarray:
    """Sums of pixels by `shares` as bytes."""
    return np.floor(sums / 2**22 + 0.5).clip(0, 255).astype(np.uint8)


def resized_sides(resize: v2.Resize, sides: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image of `sides` (height, width) behind `resize`."""
    return tuple(resize(torch.empty(3, *sides, device="meta")).shape[1:])   # without pixels


def crop_corner(crop: v2.RandomCrop | v2.CenterCrop, sides: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of what `crop` takes of an image of `sides` (height, width), drawn as it does."""
    if isinstance(crop, v2.CenterCrop):
        top, left = (round((a - b) / 2) for a, b in zip(sides, crop.size, strict=True))
        return top, left
    drawn = crop.make_params([torch.empty(3, *sides, device="meta")])
    return drawn["top"], drawn["left"]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) uint8 with the memory layout of the image, in which colours come last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def training_transform(augmentation: str, crop: int, resize: int) -> v2.Compose:
    """augmentation: base, adv, big (base with larger crops), red or realistic.

    RandomResizedCrop takes 8 to 100 % of the area at aspect ratios from 3/4 to 4/3.
    """
    if augmentation == "red":
        return ResizedThenCropped([v2.Resize(resize), v2.RandomCrop(crop),
                                   v2.RandomHorizontalFlip(), to_tensor])
    colour = []
    if augmentation in JITTER:
        strength = JITTER[augmentation]
        colour = [v2.RandomGrayscale(GRAYSCALE),
                  ColorJitter(strength, strength, strength, strength)]
    return v2.Compose([v2.RandomResizedCrop(crop), *colour, v2.RandomHorizontalFlip(), to_tensor])


def evaluation_transform(crop: int, resize: int) -> v2.Compose:
    """The short side becomes `resize` pixels, of which the centre is taken."""
    return ResizedThenCropped([v2.Resize(resize), v2.CenterCrop(crop), to_tensor])


def rotated_transform(crop: int, resize: int) -> v2.Compose:
    """A square crop, whole after any quarter turn: black corners would reveal the angle."""
    return ResizedThenCropped([v2.Resize(resize), v2.RandomCrop(crop), to_tensor])


def augment(transform: v2.Transform, image: Image.Image, *numbers: int) -> torch.Tensor:
    """transform(image), with random numbers that depend only on the numbers given."""
    with stream(*numbers):
        return transform(image)
