"""Reads image files of any mode as upright RGB images, and says what is wrong with broken ones."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from utilities.errors import UserError

TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # `turn_upright` does without


def decode(path: str) -> Image.Image:
    """The file's image, upright and in RGB; UserError, naming the file, if it cannot be read."""
    try:
        return read(path)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"--dataset: cannot read the image {path!r}: {explain(path, error)}; "
                        "--check_data lists all such files, a run begun with "
                        "--skip_broken_images leaves them out") from error


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
    """RGB of 8 bits from any mode: 16 bits are scaled to 8, what is transparent lies on white, of
    an animation the first frame counts."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((pixels * (255 if pixels.max() <= 1 else 1)).clip(0, 255)
                                .round().astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def broken(paths: list[str], threads: int) -> list[tuple[str, str]]:
    """Reads every file; returns (path, what is wrong) of each that gives no image."""
    def fault(path: str) -> str | None:
        try:
            read(path)
        except MemoryError:
            raise
        except Exception as error:
            return explain(path, error)
        return None

    faults = in_parallel(fault, paths, threads, "Reading images")
    return [(path, why) for path, why in zip(paths, faults, strict=True) if why]


def in_parallel(function: Callable, items: Sequence, threads: int, title: str) -> Iterator:
    """`map` on threads, with a progress bar; an error ends all threads. They are enough, since
    decoding releases the interpreter's lock."""
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        yield from tqdm(pool.map(function, items), title, len(items), leave=False, disable=None,
                        unit="image")
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
