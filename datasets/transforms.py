"""Augmentations, by torchvision.transforms.v2.

Each `..._transform` maps an RGB image of PIL to a tensor (3, crop, crop) uint8. torchvision draws
every random number from the CPU's global generator, which `augment` seeds and restores.
"""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from utilities.random_streams import stream

GRAYSCALE = 0.2                             # probability
JITTER = {"adv": 0.2, "realistic": 0.4}     # of brightness, contrast, saturation and hue
LONG = 10                                   # times the short side


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
        kind = resize.interpolation.value
        left, right, columns = resize_weights(image.width, width, left, crop.size[1], kind)
        top, bottom, rows = resize_weights(image.height, height, top, crop.size[0], kind)
        pixels = np.asarray(image.crop((left, top, right, bottom)))
        pixels = to_bytes(np.einsum("xw,hwc->hxc", columns, pixels, optimize=True))
        pixels = to_bytes(np.einsum("yh,hxc->yxc", rows, pixels, optimize=True))
        image = Image.fromarray(pixels)
        for step in rest:
            image = step(image)
        return image


def triangle(x):
    """The bilinear filter: the weight of a source pixel at a distance of x >= 0 pixels. x is of
    NumPy or torch, as in `cubic`."""
    return (1 - x).clip(0)


def cubic(x):
    """The bicubic filter of Pillow (Keys 1981, with a = -1/2)."""
    x = x.clip(0, 2)
    near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
    return near * (x < 1) + far * (x >= 1)


# The filter of each interpolation of `architectures.Inputs`, and how many pixels it reaches.
FILTERS = {"bilinear": (triangle, 1), "bicubic": (cubic, 2)}


def resize_weights(n: int, resized: int, first: int, count: int, interpolation: str
                   ) -> tuple[int, int, np.ndarray]:
    """begin, end and weights (count, end - begin): where `n` pixels are enlarged to `resized`, the
    `count` from `first` on are these sums of the source pixels from begin to end (excluded). The
    weights are whole numbers in units of 2**-22, as Pillow rounds them."""
    weigh, reach = FILTERS[interpolation]
    centres = (np.arange(first, first + count) + 0.5) * (n / resized)
    begin, end = max(0, int(centres[0] - reach)), min(n, int(centres[-1] + reach) + 1)
    weights = weigh(np.abs(np.arange(begin, end) + 0.5 - centres[:, None]))
    units = weights / weights.sum(1, keepdims=True) * 2**22
    return begin, end, np.trunc(units + np.copysign(0.5, units))


def to_bytes(sums: np.ndarray) -> np.ndarray:
    """Sums of pixels, weighted in units of 2**-22, as bytes."""
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


def training_transform(augmentation: str, crop: int, resize: int, interpolation: str = "bilinear"
                       ) -> v2.Compose:
    """augmentation: base, adv, big (base with larger crops), red or realistic. interpolation:
    bilinear or bicubic.

    RandomResizedCrop takes 8 to 100 % of the area at aspect ratios from 3/4 to 4/3.
    """
    by = v2.InterpolationMode(interpolation)
    if augmentation == "red":
        return ResizedThenCropped([v2.Resize(resize, by), v2.RandomCrop(crop),
                                   v2.RandomHorizontalFlip(), v2.PILToTensor()])
    colour = []
    if augmentation in JITTER:
        strength = JITTER[augmentation]
        colour = [v2.RandomGrayscale(GRAYSCALE),
                  v2.ColorJitter(strength, strength, strength, strength)]
    return v2.Compose([v2.RandomResizedCrop(crop, interpolation=by), *colour,
                       v2.RandomHorizontalFlip(), v2.PILToTensor()])


def evaluation_transform(crop: int, resize: int, interpolation: str = "bilinear") -> v2.Compose:
    """The short side becomes `resize` pixels, of which the centre is taken."""
    by = v2.InterpolationMode(interpolation)
    return ResizedThenCropped([v2.Resize(resize, by), v2.CenterCrop(crop), v2.PILToTensor()])


def rotated_transform(crop: int, resize: int, interpolation: str = "bilinear") -> v2.Compose:
    """A square crop, whole after any quarter turn: black corners would reveal the angle."""
    by = v2.InterpolationMode(interpolation)
    return ResizedThenCropped([v2.Resize(resize, by), v2.RandomCrop(crop), v2.PILToTensor()])


def augment(transform: v2.Transform, image: Image.Image, *numbers: int) -> torch.Tensor:
    """transform(image), with random numbers that depend only on the numbers given."""
    with stream(*numbers):
        return transform(image)
