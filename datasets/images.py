"""Reads image files of any mode as upright RGB images, and explains why broken ones fail."""

import contextlib
import errno
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from utilities.errors import UserError

REMEDY = ("--check_data lists all such files, --skip_broken_images leaves them out, also on "
          "--resume")
TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}
HIGHEST = {"I": 65535, "F": 255}    # level of these modes that becomes white
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}      # errors that any file would meet
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # which `turn_upright` ignores
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # half of the limit


Box = tuple[int, int, int, int]     # left, top, right and bottom, the last two excluded


class TablePath(str):
    """The path of an image with what else its row of a table says.

    row: where the row stands; box: the part of the stored image that counts, in its pixels, None
    for all of it; category: the group to which the evaluation counts it, None for none.
    """

    row: str
    box: Box | None
    category: str | None

    def __new__(cls, path: str, row: str = "", box: Box | None = None, category: str | None = None):
        self = super().__new__(cls, path)
        self.row, self.box, self.category = row, box, category
        return self


def box_of(path: str) -> Box | None:
    """The part of the stored image that counts; None for all of it."""
    return getattr(path, "box", None)


def category_of(path: str) -> str | None:
    """The group to which the evaluation counts the image; None for none."""
    return getattr(path, "category", None)


def named(path: str) -> str:
    """The path as messages show it, with its row where it stands in a table."""
    row = getattr(path, "row", "")
    return f"{path!r} ({row})" if row else repr(path)


def decode(path: str) -> Image.Image:
    """The file's image, upright and in RGB; UserError, naming the file, if it cannot be read."""
    try:
        return read(path)
    except Exception as error:
        if not lies_in_the_file(error):
            raise
        raise UserError(f"--dataset: cannot read the image {named(path)}: {explain(path, error)}; "
                        f"{REMEDY}") from error


def read(path: str) -> Image.Image:
    """The file's image, cut to its box, upright and in RGB; raises whatever goes wrong."""
    if not stat.S_ISREG(os.stat(path).st_mode):     # reading a pipe would wait for ever
        raise ValueError("it is no file")
    with Image.open(path) as image:
        image.load()
        if box := box_of(path):
            image = image.crop(box)     # which keeps the EXIF data
        turn_upright(image)
        return to_rgb(image)


def lies_in_the_file(error: Exception) -> bool:
    """Whether `error` says something about the file that was read; not so where memory or file
    handles are used up."""
    return not isinstance(error, MemoryError) and (
        getattr(error, "errno", None) not in EXHAUSTED)


def explain(path: str, error: Exception) -> str:
    """One line on why `path` could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = map(int, re.findall(r"\d+", str(error)))
        return f"it has {pixels:,} pixels, more than the limit of {limit:,}"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image"
    return " ".join(str(error).split()) or type(error).__name__


def turn_upright(image: Image.Image) -> None:
    """Applies the EXIF orientation. Damaged EXIF data are ignored, since the pixels are whole."""
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: 16 bits are scaled to 8, transparent pixels are laid on white, and
    only the first frame of an animation counts."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).clip(0, HIGHEST["I"]) / 257
        image = Image.fromarray(pixels.round().astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image))
        pixels = (pixels * (255 if pixels.max() <= 1 else 1)).clip(0, HIGHEST["F"])
        image = Image.fromarray(pixels.round().astype(np.uint8))
    elif is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether the image has transparency, which `to_rgb` lays on white."""
    return image.mode in TRANSPARENT or "transparency" in image.info


def is_clipped(image: Image.Image) -> bool:
    """Whether levels of the image lie outside of those that `to_rgb` keeps apart."""
    if image.mode not in HIGHEST:
        return False
    low, high = image.getextrema()
    return low < 0 or high > HIGHEST[image.mode]


class Finding(NamedTuple):
    """The result of reading a file: why it fails, or how its pixels were changed."""

    fault: str | None = None
    turned: bool = False        # by its EXIF orientation
    on_white: bool = False      # because it is transparent
    clipped: bool = False       # levels beyond white or black
    levels: int = 255           # between the darkest and the brightest pixel of a channel


def examine(paths: list[str], threads: int) -> list[Finding]:
    """Reads every file, on `threads` threads."""
    def finding(path: str) -> Finding:
        try:
            levels = max(high - low for low, high in read(path).getextrema())
            with Image.open(path) as image:
                return Finding(turned=orientation(image) in range(2, 9), levels=levels,
                               on_white=is_transparent(image), clipped=is_clipped(image))
        except Exception as error:
            if not lies_in_the_file(error):
                raise
            return Finding(explain(path, error))

    return list(in_parallel(finding, paths, threads, "Reading images"))


def broken(paths: list[str], threads: int) -> set[str]:
    """For `--skip_broken_images`: those of `paths` that cannot be read, which are printed."""
    found = set()
    for path, finding in zip(paths, examine(paths, threads), strict=True):
        if finding.fault:
            print(f"--skip_broken_images: left out {path!r}: {finding.fault}", flush=True)
            found.add(path)
    return found


def stored_size(path: str) -> tuple[int, int] | None:
    """(width, height) of the file's image by its header; None where that cannot be read."""
    try:
        if not os.path.isfile(path):    # reading a pipe would wait for ever
            return None
        with Image.open(path) as image:
            return image.size
    except Exception as error:
        if not lies_in_the_file(error):
            raise
        return None


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; None where there are no readable EXIF data."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def in_parallel(function: Callable, items: Sequence, threads: int, title: str) -> Iterator:
    """`map` on threads, with a progress bar; an error ends all threads. (Threads suffice, since
    decoding releases the interpreter's lock.)"""
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        yield from tqdm(pool.map(function, items), title, len(items), leave=False, disable=None,
                        unit="image")
    finally:
        pool.shutdown(cancel_futures=True)
