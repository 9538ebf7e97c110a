"""Reads image files of any mode as upright RGB images, and explains why broken ones fail."""

from __future__ import annotations

import contextlib
import os
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
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # which `turn_upright` ignores


def decode(path: str) -> Image.Image:
    """The file's image, upright and in RGB; UserError, naming the file, if it cannot be read."""
    try:
        return read(path)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"--dataset: cannot read the image {path!r}: {explain(path, error)}; "
                        f"{REMEDY}") from error


def read(path: str) -> Image.Image:
    """The file's image, upright and in RGB; raises whatever goes wrong."""
    if not stat.S_ISREG(os.stat(path).st_mode):     # reading a pipe would wait for ever
        raise ValueError("it is no file")
    with Image.open(path) as image:
        image.load()
        turn_upright(image)
        return to_rgb(image)


def explain(path: str, error: Exception) -> str:
    """One line on why `path` could not be read."""
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
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((pixels * (255 if pixels.max() <= 1 else 1)).clip(0, 255)
                                .round().astype(np.uint8))
    elif is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether the image has transparency, which `to_rgb` lays on white."""
    return image.mode in TRANSPARENT or "transparency" in image.info


class Finding(NamedTuple):
    """The result of reading a file: why it fails, or how its pixels were changed."""

    fault: str | None = None
    turned: bool = False        # by its EXIF orientation
    on_white: bool = False      # because it is transparent


def examine(paths: list[str], threads: int) -> list[Finding]:
    """Reads every file, on `threads` threads."""
    def finding(path: str) -> Finding:
        try:
            read(path)
            with Image.open(path) as image:
                return Finding(turned=orientation(image) in range(2, 9),
                               on_white=is_transparent(image))
        except MemoryError:
            raise
        except Exception as error:
            return Finding(explain(path, error))

    return list(in_parallel(finding, paths, threads, "Reading images"))


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
