"""Image files of any mode -> RGB, and where the pixels of a split come from."""

from __future__ import annotations

import mmap
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from utilities.errors import UserError

ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
           4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
           6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # `upright` does without


def decode(path: str) -> Image.Image:
    """The file's image, upright and in RGB; UserError, naming the file, if it cannot be read."""
    image, fault = attempt(path)
    if fault:
        raise UserError(f"--dataset: cannot read the image {path!r}: {fault}; --check_data lists "
                        "all such files, a run begun with --skip_broken_images leaves them out")
    return image


def attempt(path: str) -> tuple[Image.Image | None, str | None]:
    """(image, None), or (None, one line on why the file cannot be read)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None, "it is no file"    # reading a pipe would wait for ever
        with Image.open(path) as image:
            image.load()
            return upright(to_rgb(image), image), None
    except MemoryError:
        raise
    except Exception as error:
        return None, explain(path, error)


def explain(path: str, error: Exception) -> str:
    """One line on why `path` could not be read."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if os.path.getsize(path) == 0:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image"
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits from any mode: 16 bits are scaled to 8, what is transparent lies on white, of
    an animation the first frame counts."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((pixels * (255 if pixels.max() <= 1 else 1)).clip(0, 255)
                                .round().astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """`rgb` turned as the EXIF data of `original` asks."""
    try:
        turn = UPRIGHT.get(original.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF data says nothing about the pixels
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


class Images:
    """The images of a list of files: decoded whenever they are asked for, or kept in memory.

    training: whether they are the training split's, which `--cache gpu` keeps on the device.
    """

    def __init__(self, paths: list[str], *, training: bool = False):
        self.paths, self.training = paths, training
        self.pixels = None      # of all images, one after the other, shared between workers
        self.offsets = None     # (N + 1,) int64: where each begins
        self.sides = None       # (N, 2) int64: height, width
        self.together = ()      # the Images, this one among them, that `keep` keeps at once
        self.on_device = None   # the DevicePixels of `--cache gpu`

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        if self.pixels is None:
            return decode(self.paths[index])
        begin, end = self.offsets[index:index + 2].tolist()
        return Image.fromarray(self.pixels[begin:end].numpy().reshape(*self.sides[index], 3))

    def keep(self, threads: int) -> None:
        """Decodes all, and all of `together`, into memory that worker processes share; UserError,
        before anything is decoded, if it would not fit."""
        if self.pixels is not None:
            return
        together = self.together or [self]
        offsets = [images.measure(threads) for images in together]
        announce("ram", sum(map(len, together)), sum(int(begins[-1]) for begins in offsets),
                 available_memory())
        for images, begins in zip(together, offsets, strict=True):
            images.fill(begins, threads)

    def fill(self, offsets: np.ndarray, threads: int) -> None:
        """Decodes all into shared memory, image i to `offsets[i]`."""
        pixels = shared_bytes(int(offsets[-1]))
        self.sides = self.decode_into(
            lambda begin, end: pixels[begin:end], offsets, threads)
        self.pixels, self.offsets = pixels, offsets

    def measure(self, threads: int) -> np.ndarray:
        """(N + 1,) int64: where each image begins among the bytes of all, read off the headers."""
        areas = list(in_parallel(area, self.paths, threads))
        return np.concatenate([[0], np.cumsum(3 * np.array(areas, np.int64))])

    def decode_into(self, place: Callable[[int, int], torch.Tensor], offsets: np.ndarray,
                    threads: int) -> np.ndarray:
        """Writes image i to `place(offsets[i], offsets[i + 1])`; returns heights and widths."""
        def write(index: int) -> tuple[int, int]:
            image = decode(self.paths[index])
            pixels = torch.from_numpy(np.array(image).reshape(-1))
            place(*offsets[index:index + 2].tolist()).copy_(pixels)
            return image.height, image.width

        bar = tqdm(in_parallel(write, range(len(self)), threads), "Decoding images", len(self),
                   leave=False, disable=None, unit="image")
        return np.array(list(bar), np.int64)


def area(path: str) -> int:
    """Pixels of the image in `path`, by its header."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:
        image = decode(path)  # says what is wrong
        return image.width * image.height


def broken(paths: list[str], threads: int) -> list[tuple[str, str]]:
    """Reads every file; (path, why not) of those that give no image."""
    faults = tqdm(in_parallel(lambda path: attempt(path)[1], paths, threads), "Reading images",
                  len(paths), leave=False, disable=None, unit="image")
    return [(path, fault) for path, fault in zip(paths, faults, strict=True) if fault]


def in_parallel(function: Callable, items: Iterable, threads: int) -> Iterator:
    """`map` on threads (decoding releases the interpreter's lock); an error ends all of them."""
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def announce(cache: str, n_images: int, needed: int, available: int, reserve: int = 0) -> None:
    """Says what `--cache` is going to take; UserError if that leaves less than `reserve` bytes."""
    need = f"{n_images:,} decoded images need {needed / 2**30:.2f} GB"
    if needed > available - reserve:
        kept = f", {reserve / 2**30:.2f} GB of them stay for training" if reserve else ""
        raise UserError(f"--cache: {cache!r} does not fit: {need}, {available / 2**30:.2f} GB are "
                        f"available{kept}; accepted here: none, or a larger machine")
    left = f", {(available - needed) / 2**30:.2f} GB are left for training" if reserve else ""
    print(f"--cache {cache}: {need} of {available / 2**30:.2f} GB available{left}", flush=True)


def available_memory() -> int:
    """Bytes that this process may still take, by the machine and by its control group."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as lines:
            bounds += [1024 * int(line.split()[1]) for line in lines
                       if line.startswith("MemAvailable:")]
    group = "/sys/fs/cgroup/memory."
    if os.path.exists(f"{group}max"):
        limit, used = (open_text(f"{group}{name}").strip() for name in ("max", "current"))
        # Cached files count as used and are given back when memory is asked for.
        cached = [int(line.split()[1]) for line in open_text(f"{group}stat").splitlines()
                  if line.startswith(("inactive_file ", "active_file "))]
        if limit != "max":
            bounds.append(int(limit) - int(used) + sum(cached))
    return min(bounds)


def open_text(path: str) -> str:
    with open(path) as file:
        return file.read()


def shared_bytes(n: int) -> torch.Tensor:
    """(n,) uint8 that processes started later share.

    On Linux an anonymous map: torch's shared memory lies in /dev/shm, 64 MB in most containers.
    """
    if sys.platform == "linux":
        return torch.frombuffer(mmap.mmap(-1, n), dtype=torch.uint8)
    return torch.empty(n, dtype=torch.uint8).share_memory_()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
