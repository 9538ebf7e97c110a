"""The layout of CUB200-2011: `images/<class>/<files>`, the first half of the classes trains.

Classes are ordered by the leading number of their folders' names (`001.Black_footed_Albatross`) if
all have one, otherwise in string order. Download: data.caltech.edu (CUB-200-2011).
"""

import os
import re
from pathlib import Path

from datasets import DATASETS, Damaged, Samples
from utilities.errors import UserError
from utilities.files import fault, is_folder

EXTENSIONS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "jp2", "tga", "avif"))
LAYOUT = "images/<class>/<image files>"


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing"}: (path, class) of each image."""
    return halves(folder, by_number)


def by_number(names: list[str]) -> list[str]:
    """Sorts by leading number if all have one, otherwise as strings."""
    numbers = {name: re.match(r"\d+", name) for name in names}
    if all(numbers.values()):
        return sorted(names, key=lambda name: (int(numbers[name][0]), name))
    return sorted(names)


def halves(folder: Path, order) -> dict[str, Samples]:
    """The class folders, sorted by `order` and split in the middle. Damaged for class folders that
    are empty or cannot be listed."""
    require(folder / "images", folder, LAYOUT)
    names, faults = classes(folder / "images", order)
    if len(names) < 2:
        raise UserError(f"--dataset: {len(names)} class folders in {str(folder / 'images')!r}; at "
                        f"least 2 are needed, laid out as {folder!s}/{LAYOUT}")
    half = len(names) // 2
    return members({"training": [folder / "images" / name for name in names[:half]],
                    "testing": [folder / "images" / name for name in names[half:]]}, faults)


def classes(folder: Path, order) -> tuple[list[str], list[str]]:
    """Names of the class folders in `folder`, sorted by `order`, and a line for each link that
    leads to none."""
    entries = visible(folder)
    links = sorted(entry.path for entry in entries if entry.is_symlink())
    faults = [f"--source_path: {link!r} {wrong}; accepted: class folders, and links to them; "
              "delete the link, since --skip_broken_images leaves out images alone"
              for link in links if (wrong := fault(link))]
    return order([entry.name for entry in entries if is_folder(entry)]), faults


def members(splits: dict[str, list[Path]], faults: list[str]) -> dict[str, Samples]:
    """{split: [(path, class)]} of the images in the class folders of each split. Damaged where
    there are `faults` or class folders that are empty or cannot be listed."""
    samples, deeper = {split: [] for split in splits}, []
    for split, folders in splits.items():
        for folder in folders:
            try:
                paths, inner = images(folder)
            except UserError as error:
                faults.append(str(error))
            else:
                samples[split] += [(path, folder.name) for path in paths]
                deeper += inner
    if deeper:
        print(f"--source_path: images that lie in folders inside the class folders and are left "
              f"out: {len(deeper):,}, the first is {deeper[0]!r}", flush=True)
    if faults:
        raise Damaged(faults, samples)
    return samples


def images(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the images in the class folder `folder`, and of those in the folders inside it.
    UserError where there are none of the first."""
    entries = visible(folder)
    paths = files(entries)
    if not paths:
        raise UserError(f"--dataset: no image in the class folder {str(folder)!r}; remove it, or "
                        f"put files of these types into it: {', '.join(sorted(EXTENSIONS))}")
    return paths, below(entries)


def files(entries: list[os.DirEntry]) -> list[str]:
    """Paths of the images among the `entries` of a folder, in string order of their names.

    A broken link with an image's extension counts, so that reading it fails with its name.
    """
    return sorted(entry.path for entry in entries
                  if is_image(entry.name) and not is_folder(entry))


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.rpartition(".")[2].lower() in EXTENSIONS


def below(entries: list[os.DirEntry]) -> list[str]:
    """Paths of the images in the folders among `entries`, at any depth. Links to folders are not
    followed, since they may lead to anything."""
    inner = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    return [path for start in inner for at, _, _ in os.walk(start)
            for path in files(visible(Path(at)))]


def visible(folder: Path) -> list[os.DirEntry]:
    """Entries of `folder` that are not hidden (as `._*` of macOS archives are)."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"--source_path: cannot list {str(folder)!r}: {error.strerror}; accepted: "
                        "a folder that you may read") from error


def require(path: Path, folder: Path, expected: str) -> None:
    """UserError, naming `path` and the layout expected in `folder`, unless `path` is there."""
    if wrong := fault(path):
        names = "" if folder.name in DATASETS else (
            f"; known names: {', '.join(DATASETS)}; other layouts: {{train,val,test}}/<class>/"
            "<image files>, or a table.csv")
        raise UserError(f"--source_path: {str(path)!r} {wrong}; --dataset {folder.name} is "
                        f"expected as {folder!s}/{expected}{names}")
