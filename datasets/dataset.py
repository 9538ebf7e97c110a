"""A split: labelled images and the recipes of their views."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils import data

from datasets import Batch
from datasets.images import Images
from datasets.transforms import N_UNIFORMS, Normalisation, Recipe, render

QUARTER_TURNS = 4


@dataclass(frozen=True)
class Views:
    """The recipes of a split's views; None for a view that nothing reads."""

    main: Recipe
    second: Recipe | None = None
    rotated: Recipe | None = None

    def given(self) -> list[tuple[int, Recipe]]:
        """The recipes that are there, with the place of each."""
        return [(place, recipe) for place, recipe in
                enumerate((self.main, self.second, self.rotated)) if recipe is not None]


class Dataset(data.Dataset):
    """Labelled images of one split.

    paths: N file names; labels (N,) int64 in 0..n_classes-1; class_names: of each label.
    """

    def __init__(self, name: str, images: Images, labels: np.ndarray, class_names: list[str],
                 views: Views, *, normalisation: Normalisation, seed: int):
        self.name, self.images, self.labels = name, images, labels
        self.class_names, self.views = class_names, views
        self.normalisation, self.seed = normalisation, seed

    @property
    def paths(self) -> list[str]:
        return self.images.paths

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def digest(self) -> str:
        """Of the files' names below the folder that holds them all, and their classes."""
        root = len(os.path.commonpath(self.paths))
        lines = (f"{path[root:]}\t{label}\n" for path, label in
                 zip(self.paths, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()

    def __getitem__(self, index: int) -> Batch:
        """One item, views (3, H, W) uint8, augmented as the first batch of epoch 0 would be."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        batch = self.batch([index % len(self)], epoch=0, step=0)
        return Batch(*(None if field is None else field[0] for field in batch))

    def uniforms(self, n: int, epoch: int, step: int) -> np.ndarray:
        """(n, 3, N_UNIFORMS): the random numbers of each slot in a batch and each view."""
        return np.random.default_rng([self.seed, epoch, step]).random((n, 3, N_UNIFORMS))

    def facts(self, indices: list[int]) -> Batch:
        """A batch without its images: labels, indices, and the rotation class, index mod 4."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(torch.from_numpy(self.labels)[indices], None, indices, None,
                     indices % QUARTER_TURNS, None)

    def batch(self, indices: list[int], *, epoch: int, step: int) -> Batch:
        """The items at `indices`, views (B, 3, H, W) uint8 (channels last in memory).

        Every image is decoded once. UserError, naming the file, when one cannot be read.
        """
        uniforms = self.uniforms(len(indices), epoch, step)
        views = {place: np.empty((len(indices), recipe.crop, recipe.crop, 3), np.uint8)
                 for place, recipe in self.views.given()}
        for slot, index in enumerate(indices):
            image = self.images[index]
            sides = np.array([image.height]), np.array([image.width])
            for place, recipe in self.views.given():
                drawn = recipe.draw(uniforms[slot:slot + 1, place], *sides)
                view = np.asarray(render(image, recipe.crop, *drawn))
                views[place][slot] = np.rot90(view, index % QUARTER_TURNS) if place == 2 else view
        main, second, rotated = (
            torch.from_numpy(views[place]).permute(0, 3, 1, 2) if place in views else None
            for place in range(3))
        return self.facts(indices)._replace(images=main, second_views=second, rotated_views=rotated)
