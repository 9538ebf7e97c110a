"""The layout of CUB200-2011: `images/<class>/<files>`, the first half of the classes trains.

Classes are ordered by the leading number of their folders' names (`001.Black_footed_Albatross`) if
all have one, otherwise in string order. Download: data.caltech.edu (CUB-200-2011).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from datasets import DATASETS
from utilities.errors import UserError

EXTENSIONS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "jp2", "tga", "avif"))
LAYOUT = "images/<class>/<image files>"


def read(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{"training", "testing"}: (path, class) of each image."""
    return halves(folder, by_number)


def by_number(names: list[str]) -> list[str]:
    """Sorts by leading number if all have one, otherwise as strings."""
    numbers = [re.match(r"\d+", name) for name in names]
    if all(numbers):
        return [name for _, name in sorted((int(number[0]), name)
                                           for number, name in zip(numbers, names, strict=True))]
    return sorted(names)


def halves(folder: Path, order) -> dict[str, list[tuple[str, str]]]:
    """The class folders, sorted by `order` and split in the middle."""
    require(folder / "images", folder, LAYOUT)
    names = order([entry.name for entry in visible(folder / "images") if entry.is_dir()])
    if len(names) < 2:
        raise UserError(f"--dataset: {len(names)} class folders in {str(folder / 'images')!r}; at "
                        f"least 2 are needed, laid out as {folder!s}/{LAYOUT}")
    samples = {name: files(folder / "images" / name) for name in names}
    for name, paths in samples.items():
        if not paths:
            raise UserError(f"--dataset: no image in the class folder "
                            f"{str(folder / 'images' / name)!r}; remove it, or put files of these "
                            f"types into it: {', '.join(sorted(EXTENSIONS))}")
    parts = {"training": names[:len(names) // 2], "testing": names[len(names) // 2:]}
    return {split: [(path, name) for name in part for path in samples[name]]
            for split, part in parts.items()}


def files(folder: Path) -> list[str]:
    """Paths of the images in `folder`, in string order of their names.

    A broken link with an image's extension counts, so that reading it fails with the file's name.
    """
    return [os.path.join(folder, name) for name in sorted(
        entry.name for entry in visible(folder)
        if entry.name.rpartition(".")[2].lower() in EXTENSIONS and not entry.is_dir())]


def visible(folder: Path) -> list[os.DirEntry]:
    """Entries of `folder` that are not hidden (as `._*` of macOS archives are)."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"--source_path: cannot list {str(folder)!r}: {error.strerror}") from error


def require(path: Path, folder: Path, expected: str) -> None:
    """UserError, naming `path` and the layout expected in `folder`, unless `path` exists."""
    if not path.exists():
        names = "" if folder.name in DATASETS else f"; known names: {', '.join(DATASETS)}"
        raise UserError(f"--source_path: {str(path)!r} does not exist; --dataset {folder.name} is "
                        f"expected as {folder!s}/{expected}{names}")
