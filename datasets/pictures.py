"""Images without classes: those of a folder, at any depth, or the rows of a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils import data

import architectures
from datasets import Batch, csv_table, images, transforms
from datasets.class_folders import EXTENSIONS, is_image
from utilities.errors import refuse
from utilities.files import fault


class Picture(NamedTuple):
    """An image. name: as its user knows it; source: its file, perhaps with a box, or the image
    itself."""

    name: str
    source: str | Image.Image

    def open(self, flag: str) -> Image.Image:
        """Upright and in RGB; UserError, naming `flag`, if it cannot be read."""
        if isinstance(self.source, Image.Image):
            image = self.source.copy()
            images.turn_upright(image)
            return images.to_rgb(image)
        try:
            return images.read(self.source)
        except Exception as error:
            if not images.lies_in_the_file(error):
                raise
            refuse(flag, f"cannot read the image {self.source!r} "
                   f"({images.explain(self.source, error)})",
                   "images that Pillow reads; --skip_broken_images leaves out others")


class Pictures(data.Dataset):
    """Unlabelled images as a network with these `options` is evaluated on; for a Loader.

    flag: what its user gave them by. paths: their names.
    """

    device_cache, seed = None, 0

    def __init__(self, pictures: Sequence[Picture], options, flag: str):
        self.pictures, self.flag = pictures, flag
        self.paths = [picture.name for picture in pictures]
        self.labels = [0] * len(pictures)
        self.inputs = architectures.inputs(options.arch)
        self.transform = transforms.evaluation_transform(
            options.crop_size, options.resize, self.inputs.interpolation)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        index, _seed = key
        nothing = torch.tensor(0)
        return Batch(nothing, self.transform(self.pictures[index].open(self.flag)),
                     torch.tensor(index), rotations=nothing)


def find(path: Path, flag: str) -> list[Picture]:
    """The images of the folder or table at `path`, which `flag` gave; UserError without any."""
    if not fault(path, "folder"):
        found = in_folder(path, flag)
    elif not fault(path, "file"):
        found = in_table(path, flag)
    else:
        refuse(flag, f"{str(path)!r} {fault(path) or 'is no folder and no table'}",
               "a folder of images, or a table .csv")
    if not found:
        refuse(flag, f"no image in {str(path)!r}",
               f"files of these types, at any depth: {', '.join(sorted(EXTENSIONS))}")
    return found


def in_folder(folder: Path, flag: str) -> list[Picture]:
    """The images in `folder` and in the folders inside it, in string order, named by their paths
    below it. Hidden files and folders are left out, and links to folders are not followed."""
    def unreadable(error: OSError):
        refuse(flag, f"cannot list {error.filename!r} ({error.strerror})",
               "folders that you may read")

    names = []
    for at, inner, files in os.walk(folder, onerror=unreadable):
        inner[:] = [name for name in inner if not name.startswith(".")]
        names += [os.path.relpath(os.path.join(at, name), folder) for name in files
                  if not name.startswith(".") and is_image(name)]
    return [Picture(name, os.path.join(folder, name)) for name in sorted(names)]


def in_table(table: Path, flag: str) -> list[Picture]:
    """The images in the rows of any table with a column `path`, named as they are there; UserError
    where it is no such table."""
    header, rows = csv_table.rows(table, flag, ("path",))
    found = []
    for where, row in rows:
        place = f"{flag}: {where}"
        cells = csv_table.cells_of(header, row, ("path",), place)
        file = os.path.normpath(table.parent / cells["path"])
        found.append(Picture(cells["path"],
                             images.TablePath(file, where, csv_table.box(cells, place))))
    return found


def without_broken(pictures: Sequence[Picture], threads: int) -> list[Picture]:
    """`pictures` without those whose files cannot be read, which are printed."""
    broken = images.broken([picture.source for picture in pictures], threads)
    return [picture for picture in pictures if picture.source not in broken]
