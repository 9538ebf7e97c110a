"""A split: labelled images, and the transforms that make training items of them."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils import data
from torchvision.transforms import v2

from architectures import Inputs
from datasets import Batch
from datasets.images import box_of
from datasets.transforms import augment

QUARTER_TURNS = 4


class Transforms(NamedTuple):
    """Of the main, second and rotated view; None for views that no feature reads."""

    main: v2.Compose
    second: v2.Compose | None = None
    rotated: v2.Compose | None = None


@dataclass(eq=False, repr=False)
class Dataset(data.Dataset):
    """Labelled images of one split.

    paths: N file names. labels (N,) int64 in 0..n_classes-1. class_names: the name of each label.
    open_image: path -> RGB image, decoded from the file or from `--cache ram`. listed: paths and
    labels before broken images were left out. device_cache: the images on the device, with
    `--cache gpu`.
    """

    name: str
    paths: list[str]
    labels: np.ndarray
    class_names: list[str]
    transforms: Transforms
    inputs: Inputs
    seed: int
    open_image: Callable[[str], Image.Image]
    listed: tuple[list[str], np.ndarray]
    device_cache: Any = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def digest(self) -> str:
        """A hash of the labels, the boxes and the files' paths below their common folder, as
        listed."""
        paths, labels = self.listed
        root = len(os.path.commonpath(paths))
        lines = (f"{path[root:]}{box_of(path) or ''}\t{label}\n" for path, label in
                 zip(paths, labels.tolist(), strict=True))
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """dataset[index, seed]: one item, its views (3, H, W) uint8 from one decoded image; the
        loader turns the rotated view. UserError, naming the file, when it cannot be read."""
        index, seed = key
        image = self.open_image(self.paths[index])
        # Each view has a seed of its own, so that it does not change when another is left out.
        main, second, rotated = (
            None if transform is None else augment(transform, image, seed, view)
            for view, transform in enumerate(self.transforms))
        return Batch(torch.tensor(self.labels[index]), main, torch.tensor(index), second,
                     torch.tensor(index % QUARTER_TURNS), rotated)


def collate(items: list[Batch]) -> Batch:
    """Stacks each field of the items."""
    return Batch(*map(stack, zip(*items, strict=True)))


def stack(field: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
    """Along a new first dimension; None for a field that is None. In a worker `default_collate`
    writes into shared memory, so that running out of it is an error at once."""
    if field[0] is None:
        return None
    if field[0].ndim == 3:      # views, faster in their memory layout, in which colours come last
        return data.default_collate([view.permute(1, 2, 0) for view in field]).permute(0, 3, 1, 2)
    return data.default_collate(field)
