"""From a decoded image to the pixels of a view.

A view is drawn in two steps: `Recipe.draw` turns uniform random numbers into a `Geometry` (and
`Colour`), a row per image; `render` carries a row out with PIL. `datasets.device_cache` carries out
the same rows on the device.

Training: RandomResizedCrop with torchvision's scale and ratio, horizontal flip. The realistic
augmentation and `adv` add RandomGrayscale(0.2) and ColorJitter, `red` is Resize, RandomCrop, flip.
Evaluation: Resize of the short side, CenterCrop. Rotated view: Resize, RandomCrop, quarter turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

SCALE = (0.08, 1.0)             # share of the image's area that RandomResizedCrop takes
RATIO = (3 / 4, 4 / 3)          # width / height
TRIES = 10
GRAYSCALE = 0.2                 # probability
N_UNIFORMS = 4 * TRIES + 1 + 9  # random numbers a view: places, flip, colours


class Geometry(NamedTuple):
    """Arrays (N,): of the image, take the box (top, left, height, width), resize it to
    (resized_height, resized_width), and of that take the crop at (y, x); mirror it where flip."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    resized_height: np.ndarray
    resized_width: np.ndarray
    y: np.ndarray
    x: np.ndarray
    flip: np.ndarray


class Colour(NamedTuple):
    """grey (N,) bool; factors (N, 4) of brightness, contrast, saturation and hue (in turns), to be
    applied in the order (N, 4)."""

    grey: np.ndarray
    factors: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """What a view is made by; `crop` is the side of its square in pixels.

    random_scale: RandomResizedCrop, otherwise the short side becomes `resize` pixels and the crop
    is taken at random or, unless `random`, from the centre. jitter: strength of ColorJitter and,
    with it, RandomGrayscale; None for neither.
    """

    crop: int
    resize: int
    random: bool = False
    random_scale: bool = False
    flip: bool = False
    jitter: float | None = None

    def draw(self, uniforms: np.ndarray, heights: np.ndarray,
             widths: np.ndarray) -> tuple[Geometry, Colour | None]:
        """uniforms (N, N_UNIFORMS) in [0, 1); heights and widths (N,) of the images in pixels."""
        places, flip, colours = np.split(uniforms, [4 * TRIES, 4 * TRIES + 1], axis=1)
        flip = (flip[:, 0] < 0.5) & self.flip
        make = self.resized_crop if self.random_scale else self.crop_of_resized
        geometry = make(places, heights, widths)
        return Geometry(*geometry, flip), self.draw_colour(colours)

    def resized_crop(self, places: np.ndarray, heights: np.ndarray,
                     widths: np.ndarray) -> tuple[np.ndarray, ...]:
        """The first of TRIES random boxes that fits, else the largest central one that RATIO
        allows."""
        area, ratio, y, x = places.reshape(-1, 4, TRIES).swapaxes(0, 1)             # (N, TRIES)
        area = (SCALE[0] + area * (SCALE[1] - SCALE[0])) * (heights * widths)[:, None]
        low, high = np.log(RATIO)
        ratio = np.exp(low + ratio * (high - low))
        width, height = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
        fits = ((width > 0) & (width <= widths[:, None])
                & (height > 0) & (height <= heights[:, None]))
        first, row = fits.argmax(1), np.arange(len(heights))
        fits = fits.any(1)
        height = np.where(fits, height[row, first],
                          np.minimum(heights, np.round(widths / RATIO[0])))
        width = np.where(fits, width[row, first], np.minimum(widths, np.round(heights * RATIO[1])))
        top, left = heights - height, widths - width
        top = np.where(fits, np.floor(y[row, first] * (top + 1)), top // 2)
        left = np.where(fits, np.floor(x[row, first] * (left + 1)), left // 2)
        full, none = np.full(len(heights), self.crop), np.zeros(len(heights), int)
        box = (part.astype(int) for part in (top, left, height, width))
        return *box, full, full, none, none

    def crop_of_resized(self, places: np.ndarray, heights: np.ndarray,
                        widths: np.ndarray) -> tuple[np.ndarray, ...]:
        """Short side to `resize`, then a crop, at random or from the centre."""
        short, none = np.minimum(heights, widths), np.zeros(len(heights), int)
        resized = [self.resize * side // short for side in (heights, widths)]
        if self.random:
            y, x = (np.floor(place * (side - self.crop + 1)).astype(int)
                    for place, side in zip(places.T, resized, strict=False))
        else:
            y, x = (np.round((side - self.crop) / 2).astype(int) for side in resized)
        return none, none, heights, widths, *resized, y, x

    def draw_colour(self, uniforms: np.ndarray) -> Colour | None:
        """ColorJitter: factors around 1, hue around 0, in random order."""
        if self.jitter is None:
            return None
        factors = self.jitter * (2 * uniforms[:, 1:5] - 1) + [1, 1, 1, 0]
        return Colour(uniforms[:, 0] < GRAYSCALE, factors, uniforms[:, 5:].argsort(1))


def render(image: Image.Image, crop: int, geometry: Geometry, colour: Colour | None,
           row: int = 0) -> Image.Image:
    """Carries out one row with PIL: (crop, crop) RGB."""
    top, left, height, width, resized_height, resized_width, y, x, flip = (
        int(column[row]) for column in geometry)
    if (height, width) != (image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    if (resized_width, resized_height) != image.size:
        image = image.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    if (resized_width, resized_height) != (crop, crop):
        image = image.crop((x, y, x + crop, y + crop))
    if colour is not None:
        image = recolour(image, colour.grey[row], colour.factors[row], colour.order[row])
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def recolour(image: Image.Image, grey: bool, factors: np.ndarray, order: np.ndarray) -> Image.Image:
    """RandomGrayscale, then the four changes of ColorJitter in `order`."""
    if grey:
        image = image.convert("L").convert("RGB")
    changes = (lambda x, by: ImageEnhance.Brightness(x).enhance(by),
               lambda x, by: ImageEnhance.Contrast(x).enhance(by),
               lambda x, by: ImageEnhance.Color(x).enhance(by),
               turn_hue)
    for change in order:
        image = changes[change](image, float(factors[change]))
    return image


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """Adds to the hue, a circle of 256 steps."""
    hue, saturation, value = image.convert("HSV").split()
    shift = int(turns * 255) % 256
    hue = hue.point([(step + shift) % 256 for step in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


@dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std, mean and std of red, green, blue; then blue first where `bgr`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    @classmethod
    def of_backbone(cls, backbone: str) -> Normalisation:
        """BN-Inception's own, otherwise ImageNet's."""
        if backbone == "bninception":
            return cls((0.502, 0.4588, 0.4078), (0.0039, 0.0039, 0.0039), bgr=True)
        return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def training_recipe(augmentation: str, crop: int, resize: int) -> Recipe:
    """The recipe called `augmentation`: base, adv, big, red or realistic."""
    if augmentation == "red":
        return Recipe(crop, resize, random=True, flip=True)
    jitter = {"adv": 0.2, "realistic": 0.4}.get(augmentation)
    return Recipe(crop, resize, random=True, random_scale=True, flip=True, jitter=jitter)
