"""`--cache gpu`: the training set as bytes on the device, where views are cut out.

The loader's workers draw a transform's parameters for an image, with the same random numbers as
without the cache (`draw`); the device applies them to a whole batch (`DeviceCache.cut`). PIL's
bilinear filter is a triangle of half width max(1, s), with s source pixels per target pixel, the
bicubic one is as much wider, so a resize is A_y I A_x' with matrices of such weights, which also
crop and flip. Pixels equal those of the files up to rounding. Nothing waits for the device.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from datasets import Batch
from datasets.cache import DecodedImages, available_memory
from datasets.dataset import Dataset, Transforms
from datasets.transforms import FILTERS, crop_corner, resized_sides

PIXELS_AT_ONCE = 2**22  # read by one product; a batch of larger boxes takes several products
PADDING = 32            # sides that are read are multiples of it, so that memory is reused
RESERVE = 0.25          # share of the free memory that stays for training
FACTORS = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")


def draw(transform: v2.Compose, sides: tuple[int, int]) -> Tensor:
    """(18,) float64: random parameters of `transform` for an image of these sides (height, width).

    The box (top, left, height, width) to take, the (height, width) to resize it to, the corner
    (y, x) of the crop, whether to mirror and to make grey (0 or 1), then the order (4,) and factors
    (4,) of changes to brightness, contrast, saturation and hue, unused without a ColorJitter.
    """
    box, resized, corner, mirrored, grey = (0, 0, *sides), sides, (0, 0), 0, 0
    order, factors = range(4), (1, 1, 1, 0)
    probe = torch.tensor([[[0, 255]], [[0, 0]], [[0, 0]]], dtype=torch.uint8)   # (3, 1, 2)
    for step in transform.transforms:
        if isinstance(step, v2.RandomResizedCrop):
            image = torch.empty(3, *resized, device="meta")     # has sides, but no pixels
            crop, resized = step.make_params([image]), step.size
            box = [crop[key] for key in ("top", "left", "height", "width")]
        elif isinstance(step, v2.Resize):
            resized = resized_sides(step, resized)
        elif isinstance(step, (v2.RandomCrop, v2.CenterCrop)):
            corner = crop_corner(step, resized)
        elif isinstance(step, v2.RandomHorizontalFlip):
            mirrored = int(step(probe)[0, 0, 0] > 0)
        elif isinstance(step, v2.RandomGrayscale):
            grey = int(step(probe)[1].any())
        elif isinstance(step, v2.ColorJitter):
            changes = step.make_params([])
            order, factors = changes["fn_idx"].tolist(), [changes[key] for key in FACTORS]
    return torch.tensor([*box, *resized, *corner, mirrored, grey, *order, *factors],
                        dtype=torch.float64)


class DeviceCache:
    """The images of `paths`, uint8 RGB at full size, on the device given to `fill`, to be resized
    by bilinear or bicubic `interpolation`."""

    def __init__(self, paths: list[str], crop: int, interpolation: str = "bilinear"):
        self.paths, self.crop, self.images = paths, crop, None
        self.weigh, _ = FILTERS[interpolation]

    def fill(self, device: torch.device, threads: int) -> None:
        """Decodes all images at the first call; UserError where they do not fit."""
        if self.images is not None:
            return
        on_gpu = device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory()
        self.images = DecodedImages(
            "gpu", self.paths, threads=threads, available=free, reserve=int(RESERVE * free),
            allocate=lambda n: torch.empty(n, dtype=torch.uint8, device=device))
        self.pixels = self.images.bytes.view(-1, 3)
        rows = [self.images.row[path] for path in self.paths]
        self.sides, self.begins = self.images.sides[rows], self.images.offsets[rows] // 3
        # Grey levels are exact in half precision, weights to 1/2048.
        self.device, self.dtype = device, torch.float16 if on_gpu else torch.float32

    def drawing(self, dataset: Dataset) -> Dataset:
        """`dataset`, which holds the images of `paths`, with results of `draw` in place of views
        and with sides (height, width) in place of images."""
        sides = dict(zip(self.paths, self.sides.tolist(), strict=True))
        draws = (transform and partial(draw, transform) for transform in dataset.transforms)
        return replace(dataset, open_image=sides.__getitem__, transforms=Transforms(*draws))

    @torch.no_grad()
    def render(self, batch: Batch, transforms: Transforms) -> Batch:
        """A batch of `drawing` with its views (B, 3, crop, crop) uint8 on the device."""
        drawn = batch.images, batch.second_views, batch.rotated_views
        main, second, rotated = (
            None if rows is None else self.views(batch.indices.numpy(), rows.numpy(), transform)
            for rows, transform in zip(drawn, transforms, strict=True))
        return batch._replace(images=main, second_views=second, rotated_views=rotated)

    def views(self, indices: np.ndarray, drawn: np.ndarray, transform: v2.Compose) -> Tensor:
        """(B, 3, crop, crop) uint8: image indices[b] with the parameters drawn[b]."""
        views = self.cut(indices, drawn[:, :9].astype(np.int64))
        for step in transform.transforms:
            if isinstance(step, v2.ColorJitter):
                for view, (grey, *changes) in zip(views, drawn[:, 9:].tolist(), strict=True):
                    image = v2.functional.rgb_to_grayscale(view, 3) if grey else view
                    factors = dict(zip(FACTORS, changes[4:], strict=True))
                    view.copy_(step.transform(image, {"fn_idx": changes[:4], **factors}))
        return views

    def cut(self, indices: np.ndarray, geometry: np.ndarray) -> Tensor:
        """(B, 3, crop, crop) uint8 by geometry (B, 9), the first nine numbers of `draw`. Boxes of
        similar size are resized together."""
        top, left, height, width, resized_height, resized_width, y, x, mirrored = geometry.T
        stride = self.sides[indices, 1]
        first = self.begins[indices] + top * stride + left
        views = torch.empty(len(indices), 3, self.crop, self.crop, dtype=torch.uint8,
                            device=self.device)
        left_over = np.argsort(-height * width, kind="stable")      # the largest box first
        while len(left_over):
            n = max(1, PIXELS_AT_ONCE // int(height[left_over[0]] * width[left_over[0]]))
            part, left_over = left_over[:n], left_over[n:]
            rows = self.weights(height[part], resized_height[part], y[part], 0 * mirrored[part])
            columns = self.weights(width[part], resized_width[part], x[part], mirrored[part])
            begin, step, last_row, last_column = self.send(np.stack(
                [first, stride, height - 1, width - 1])[:, part])[:, :, None, None]
            row = torch.arange(rows.shape[2], device=self.device)[:, None].minimum(last_row)
            column = torch.arange(columns.shape[2], device=self.device).minimum(last_column)
            pixels = self.pixels[begin + row * step + column].to(self.dtype)    # (b, h, w, 3)
            with torch.autocast(self.device.type, enabled=False):
                # Columns first and no value outside of a byte's, as PIL has it.
                pixels = torch.einsum("bxw,bhwc->bhxc", columns, pixels).clamp_(0, 255)
                pixels = torch.einsum("byh,bhxc->bcyx", rows, pixels)
            views[self.send(part)] = pixels.round().clamp(0, 255).to(torch.uint8)
        return views

    def weights(self, extent: np.ndarray, resized: np.ndarray, offset: np.ndarray,
                mirrored: np.ndarray) -> Tensor:
        """(b, crop, n): the share of each of n source pixels in every target pixel along one axis.
        `extent` pixels become `resized`, of which `crop` are taken from `offset` on."""
        n = -(-int(extent.max()) // PADDING) * PADDING
        extent, step, offset, mirrored = self.send(np.stack(
            [extent, extent / resized, offset, mirrored]).astype(np.float32))[:, :, None, None]
        target = torch.arange(self.crop, device=self.device)[:, None]
        source = torch.arange(n, device=self.device)
        away = (source + 0.5 - (offset + target + 0.5) * step).abs()
        weights = self.weigh(away / step.clamp(min=1)) * (source < extent)
        weights = weights / weights.sum(2, keepdim=True)
        return torch.where(mirrored > 0, weights.flip(1), weights).to(self.dtype)

    def send(self, array: np.ndarray) -> Tensor:
        """`array` on the device, without waiting for it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
