"""Images without classes: those of a folder, at any depth, or the rows of a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils import data

import architectures
from datasets import Batch, images, transforms
from datasets.class_folders import EXTENSIONS
from utilities.errors import refuse
from utilities.files import fault

BOX = ("x_1", "x_2", "y_1", "y_2")      # a table's columns, in pixels


class Picture(NamedTuple):
    """An image. name: as its user knows it; source: its file or the image itself; box: the part
    (left, top, right, bottom) to look at, None for all of it."""

    name: str
    source: str | Image.Image
    box: tuple[int, int, int, int] | None = None

    def open(self, flag: str) -> Image.Image:
        """Upright and in RGB; UserError, naming `flag`, if it cannot be read."""
        if isinstance(self.source, Image.Image):
            image = self.source.copy()
            images.turn_upright(image)
            image = images.to_rgb(image)
        else:
            try:
                image = images.read(self.source)
            except Exception as error:
                if not images.lies_in_the_file(error):
                    raise
                refuse(flag, f"cannot read the image {self.source!r} "
                       f"({images.explain(self.source, error)})",
                       "images that Pillow reads; --skip_broken_images leaves out others")
        return image if self.box is None else image.crop(self.box)


class Pictures(data.Dataset):
    """Unlabelled images as a network with these `options` is evaluated on; for a Loader.

    flag: what its user gave them by. paths: their names.
    """

    device_cache, seed = None, 0

    def __init__(self, pictures: Sequence[Picture], options, flag: str):
        self.pictures, self.flag = pictures, flag
        self.paths = [picture.name for picture in pictures]
        self.inputs = architectures.inputs(options.arch)
        self.transform = transforms.evaluation_transform(options.crop_size, options.resize)

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
    elif fault(path, "file"):
        refuse(flag, f"{str(path)!r} {fault(path)}" if fault(path) else
               f"{str(path)!r} is no folder and no table", "a folder of images, or a table .csv")
    else:
        found = in_table(path, flag)
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


def is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS


def in_table(path: Path, flag: str) -> list[Picture]:
    """The rows of a table with open-metric-learning's columns: `path`, relative to the table's
    folder, and where it has them the box x_1, x_2, y_1, y_2."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        refuse(flag, f"cannot read {str(path)!r} as a table ({error})",
               "UTF-8 text, comma-separated, with a header")
    return [in_row(row, path.parent, f"line {number} of {str(path)!r}", flag)
            for number, row in enumerate(rows, start=2)]


def in_row(row: dict[str, str], folder: Path, where: str, flag: str) -> Picture:
    name, corners = row.get("path"), [row.get(column) for column in BOX]
    if not name:
        refuse(flag, f"{where} has no path", "a column path, relative to the table's folder")
    box = None
    if any(corners):
        try:
            left, right, top, bottom = (int(float(corner)) for corner in corners)
        except (TypeError, ValueError):
            refuse(flag, f"{where} has the box {corners}", f"a number of pixels in each of {BOX}")
        if not (left < right and top < bottom):
            refuse(flag, f"{where} has the box {corners}", "x_1 below x_2 and y_1 below y_2")
        box = left, top, right, bottom
    return Picture(name, os.path.join(folder, name), box)


def without_broken(pictures: Sequence[Picture], threads: int) -> list[Picture]:
    """`pictures` without those whose files cannot be read, which are printed."""
    findings = images.examine([picture.source for picture in pictures], threads)
    for picture, finding in zip(pictures, findings, strict=True):
        if finding.fault:
            print(f"--skip_broken_images: left out {picture.source!r}: {finding.fault}", flush=True)
    return [picture for picture, finding in zip(pictures, findings, strict=True)
            if not finding.fault]
