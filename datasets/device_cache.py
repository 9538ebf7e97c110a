"""`--cache gpu`: the training set as bytes on the device, views cut out there.

A view is what `transforms.render` makes of the same `Geometry`, but for rounding in between: PIL's
bilinear filter is a triangle of half width max(1, s), s = source pixels per target pixel, so a
resize is A_y I A_x' with a matrix of such weights for each axis. Crop and flip are in the matrices;
a batch is one gather and two batched matrix products. Nothing waits for the device: all sizes are
known on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets import Batch
from datasets.dataset import QUARTER_TURNS, Dataset
from datasets.images import Images, announce, available_memory
from datasets.transforms import Colour, Geometry

# Of one gather; larger batches take several. A gather has the height and width of its largest
# box: fewer pixels at once waste fewer, in more turns (112 crops of 500 x 375: 4 turns, 14 M
# gathered instead of 22 M).
PIXELS_AT_ONCE = 2 ** 22
PADDING = 32                # gathered sides are multiples of it, so that memory is used again
RESERVE = 0.25              # share of the free memory that stays for training
GREY = (0.299, 0.587, 0.114)


class Axis(NamedTuple):
    """Arrays (N,), in source pixels: `length` pixels from `begin` on are read; the crop starts at
    `start`, counted from `begin`, and advances by `step` per target pixel, backwards if mirrored.
    """

    begin: np.ndarray
    length: np.ndarray
    start: np.ndarray
    step: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def of(cls, low: np.ndarray, extent: np.ndarray, resized: np.ndarray, offset: np.ndarray,
           mirrored: np.ndarray, crop: int) -> Axis:
        """`extent` pixels from `low` on become `resized`, of which `crop` from `offset` on stay."""
        step = extent / resized
        start = low + offset * step
        reach = np.maximum(step, 1)
        begin = np.maximum(low, np.floor(start + step / 2 - reach)).astype(np.int64)
        end = np.minimum(low + extent, np.ceil(start + (crop - 0.5) * step + reach))
        return cls(begin, end.astype(np.int64) - begin, start - begin, step, mirrored)


class DevicePixels:
    """All images of `images`, uint8 RGB at full size, on `device`."""

    def __init__(self, images: Images, device: torch.device, threads: int):
        offsets = images.measure(threads)
        n_bytes, on_gpu = int(offsets[-1]), device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory()
        announce("gpu", len(images), n_bytes, free, reserve=int(RESERVE * free))
        pixels = torch.empty(n_bytes, dtype=torch.uint8, device=device)
        self.sides = images.decode_into(lambda begin, end: pixels[begin:end], offsets, threads)
        self.pixels, self.offsets = pixels.view(-1, 3), offsets[:-1] // 3
        # Grey levels are exact in half precision, weights to 1/2048.
        self.device, self.dtype = device, torch.float16 if on_gpu else torch.float32

    def send(self, array: np.ndarray) -> Tensor:
        """`array` on the device, without waiting for it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def cut(self, indices: np.ndarray, geometry: Geometry, crop: int) -> Tensor:
        """(B, 3, crop, crop) float32 grey levels: row b is image indices[b] under row b."""
        top, left, height, width, resized_height, resized_width, y, x, flip = geometry
        rows = Axis.of(top, height, resized_height, y, np.zeros_like(flip), crop)
        columns = Axis.of(left, width, resized_width, x, flip, crop)
        # (B, 3, crop, crop), channels last in memory
        out = torch.empty(len(indices), crop, crop, 3, device=self.device).permute(0, 3, 1, 2)
        for part in turns(rows.length, columns.length):
            out[self.send(part)] = self.cut_at_once(indices[part], Axis(*(a[part] for a in rows)),
                                                    Axis(*(a[part] for a in columns)), crop)
        return out

    def cut_at_once(self, indices: np.ndarray, rows: Axis, columns: Axis, crop: int) -> Tensor:
        """As `cut`, for as many images as fit into one gather of (b, height, width) pixels."""
        start, stride = self.send(np.stack(
            [self.offsets[indices], self.sides[indices, 1]]))[:, :, None, None]
        y, row_weights = self.weights(rows, crop)
        x, column_weights = self.weights(columns, crop)
        pixels = self.pixels[start + y[:, :, None] * stride + x[:, None, :]].to(self.dtype)
        n, height, width, _ = pixels.shape
        pixels = row_weights @ pixels.view(n, height, width * 3)                  # (b, crop, w 3)
        pixels = pixels.view(n, crop, width, 3).transpose(1, 2).reshape(n, width, crop * 3)
        pixels = (column_weights @ pixels).view(n, crop, crop, 3)                 # (b, x, y, 3)
        return pixels.permute(0, 3, 2, 1).float().round()

    def weights(self, axis: Axis, crop: int) -> tuple[Tensor, Tensor]:
        """The pixels to read (b, n), and the weights (b, crop, n) of each for every target."""
        n = padded(axis.length.max())
        begin, length, mirrored = self.send(np.stack(
            [axis.begin, axis.length, axis.mirrored]).astype(np.int64))[:, :, None]
        start, step = self.send(np.stack([axis.start, axis.step]).astype(np.float32))[:, :, None]
        target = torch.arange(crop, device=self.device)
        centre = start + (torch.where(mirrored > 0, crop - 1 - target, target) + 0.5) * step
        source = torch.arange(n, device=self.device)
        reach = step.clamp(min=1)[:, :, None]
        weights = (1 - (source + 0.5 - centre[:, :, None]).abs() / reach).relu()
        weights = weights * (source < length)[:, None]
        weights = weights / weights.sum(2, keepdim=True)
        return begin + torch.minimum(source, length - 1), weights.to(self.dtype)


def padded(length: int) -> int:
    """The next multiple of PADDING."""
    return -(-int(length) // PADDING) * PADDING


def turns(heights: np.ndarray, widths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows to be done together, such that all, padded, are at most PIXELS_AT_ONCE (or one)."""
    order = np.argsort(-heights * widths, kind="stable")
    while len(order):
        area = (padded_running_max(heights[order]) * padded_running_max(widths[order])
                * np.arange(1, len(order) + 1))
        n = max(1, int(np.searchsorted(area, PIXELS_AT_ONCE, side="right")))
        yield order[:n]
        order = order[n:]


def padded_running_max(lengths: np.ndarray) -> np.ndarray:
    return -(-np.maximum.accumulate(lengths) // PADDING) * PADDING


class DeviceBatches:
    """Batches of `dataset` for each (epoch, step, indices) of `keys`, views already floats."""

    def __init__(self, dataset: Dataset, keys, device: torch.device, threads: int):
        self.dataset, self.keys = dataset, keys
        if dataset.images.on_device is None:
            dataset.images.on_device = DevicePixels(dataset.images, device, threads)
        self.cache = dataset.images.on_device

    def __iter__(self) -> Iterator[Batch]:
        for epoch, step, indices in self.keys:
            yield self.batch(indices, epoch=epoch, step=step)

    @torch.no_grad()
    def batch(self, indices: list[int], *, epoch: int, step: int) -> Batch:
        """As `Dataset.batch`, but views are float32 on the device."""
        uniforms = self.dataset.uniforms(len(indices), epoch, step)
        at = np.asarray(indices, np.int64)
        views: list[Tensor | None] = [None, None, None]
        with torch.autocast(self.cache.device.type, enabled=False):
            for place, recipe in self.dataset.views.given():
                geometry, colour = recipe.draw(uniforms[:, place], *self.cache.sides[at].T)
                view = self.cache.cut(at, geometry, recipe.crop)
                views[place] = view if colour is None else self.recolour(view, colour)
        facts = Batch(*(field if field is None else self.cache.send(field.numpy())
                        for field in self.dataset.facts(indices)))
        main, second, rotated = views
        if rotated is not None:
            rotated = quarter_turns(rotated, facts.rotations)
        return facts._replace(images=main, second_views=second, rotated_views=rotated)

    def recolour(self, images: Tensor, colour: Colour) -> Tensor:
        """`transforms.recolour` of (B, 3, H, W) grey levels.

        Brightness, contrast and saturation all blend with something: black, the mean grey, the
        grey image.
        """
        send = self.cache.send
        images = torch.where(send(colour.grey)[:, None, None, None], grey(images), images)
        row = np.arange(len(images))
        for change in colour.order.T:
            factor = np.where(change == 3, 1, colour.factors[row, change]).astype(np.float32)
            kind, factor = (send(x)[:, None, None, None] for x in (change, factor))
            shades = grey(images)
            mean = (shades.mean((2, 3), keepdim=True) + 0.5).floor()
            other = torch.where(kind == 1, mean, torch.where(kind == 2, shades, 0.0))
            images = (other + (images - other) * factor).clamp(0, 255).floor()
            turning = np.flatnonzero(change == 3)
            if len(turning):
                rows, shift = send(turning), (colour.factors[turning, 3] * 255).astype(np.int64)
                images[rows] = turn_hue(images[rows], send(shift)[:, None, None])
        return images


def grey(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W) brightness as ITU-R 601 weighs the colours."""
    red, green, blue = images.split(1, 1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).round()


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """(B, 3, H, W) grey levels with their hues moved by shift (B, 1, 1), in steps of 1/255 turn.

    As in PIL, hue and saturation are bytes between the two changes of colour space.
    """
    value = images.amax(1)
    chroma = value - images.amin(1)
    red, green, blue = (images / chroma.clamp(min=1)[:, None]).unbind(1)
    sixth = torch.where(value == images[:, 0], green - blue, torch.where(
        value == images[:, 1], 2 + blue - red, 4 + red - green))
    hue = ((sixth / 6 % 1 * 255).floor() + shift) % 256 / 255 * 6
    chroma = (chroma / value.clamp(min=1) * 255).floor() / 255 * value
    # A colour is a trapezoid over the hue: red's centre is 0, green's 2, blue's 4, of 6.
    away = torch.stack([(hue - centre + 3) % 6 - 3 for centre in (0, 2, 4)], 1).abs()
    return (value[:, None] - chroma[:, None] * (away - 1).clamp(0, 1)).round()


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Each of (B, 3, S, S) turned anticlockwise by its number of quarter turns."""
    out = images
    for k in range(1, QUARTER_TURNS):
        out = torch.where((turns == k)[:, None, None, None], images.rot90(k, (2, 3)), out)
    return out
