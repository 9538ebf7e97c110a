"""Decoded images kept as bytes: in memory by `--cache ram`, on the device by `--cache gpu`."""

import mmap
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.images import box_of, decode, in_parallel, stored_size
from utilities import environment
from utilities.errors import UserError


class DecodedImages:
    """The images of `paths`, each decoded once, in one tensor of bytes.

    allocate: number of bytes -> uint8 tensor. reserve: how many of the `available` bytes have to
    stay free. copies: processes that keep the images in the same memory, 0 where another one checks
    that they fit. UserError, before any image is decoded, if the images would not fit.
    """

    def __init__(self, cache: str, paths: list[str], *, threads: int, available: int,
                 allocate: Callable[[int], Tensor], reserve: int = 0, copies: int = 1):
        paths = list(dict.fromkeys(paths))
        areas = list(in_parallel(area, paths, threads, "Measuring images"))
        self.offsets = np.concatenate([[0], np.cumsum(3 * np.array(areas, np.int64))])
        if copies:
            announce(cache, len(paths), int(self.offsets[-1]), available, reserve, copies)
        self.row = {path: row for row, path in enumerate(paths)}
        self.bytes = allocate(int(self.offsets[-1]))
        self.sides = np.array(list(in_parallel(self.keep, paths, threads, "Decoding images")),
                              np.int64)     # (N, 2): height and width

    def keep(self, path: str) -> tuple[int, int]:
        """Decodes one image into the tensor; returns its height and width."""
        image = decode(path)
        begin, end = self.offsets[self.row[path]:][:2].tolist()
        self.bytes[begin:end] = torch.from_numpy(np.array(image).reshape(-1))
        return image.height, image.width

    def open_image(self, path: str) -> Image.Image:
        """The RGB image of `path`, read from the file if it is not cached."""
        if path not in self.row:
            return decode(path)
        row = self.row[path]
        begin, end = self.offsets[row:row + 2].tolist()
        return Image.fromarray(self.bytes[begin:end].numpy().reshape(*self.sides[row], 3))


def in_memory(paths: list[str], threads: int) -> DecodedImages:
    """For `--cache ram`: the images in memory shared with processes that are started later. Each
    process of torchrun has a copy, and the first one of a machine checks that they fit."""
    copies = 0 if environment.local_rank() else environment.n_local_processes()
    return DecodedImages("ram", paths, threads=threads, available=available_memory(),
                         allocate=shared_bytes, copies=copies)


def area(path: str) -> int:
    """Pixels of the image in `path`, by its box or its header; UserError, naming the file, where it
    has none."""
    if box := box_of(path):
        left, top, right, bottom = box
        return (right - left) * (bottom - top)
    width, height = stored_size(path) or decode(path).size      # `decode` says what is wrong
    return width * height


def announce(cache: str, n_images: int, needed: int, available: int, reserve: int = 0,
             copies: int = 1) -> None:
    """Prints what `--cache` will take; UserError if `copies` of the needed bytes leave less than
    `reserve` bytes."""
    needed *= copies
    need = (f"{copies} copies, one for each process, of " if copies > 1 else "") + (
        f"{n_images:,} decoded images need {needed / 2**30:.2f} GB")
    if needed > available - reserve:
        kept = f", {reserve / 2**30:.2f} GB of them stay for training" if reserve else ""
        raise UserError(f"--cache: {cache!r} does not fit: {need}, {available / 2**30:.2f} GB are "
                        f"available{kept}; accepted here: none, or a larger machine")
    left = f", {(available - needed) / 2**30:.2f} GB are left for training" if reserve else ""
    print(f"--cache {cache}: {need} of {available / 2**30:.2f} GB available{left}", flush=True)


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, within the control group's limit."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if os.path.exists("/proc/meminfo"):
        bounds += [1024 * int(line.split()[1]) for line in lines("/proc/meminfo")
                   if line.startswith("MemAvailable:")]
    group = "/sys/fs/cgroup/memory."
    if os.path.exists(f"{group}max"):
        (limit,), (used,) = lines(f"{group}max"), lines(f"{group}current")
        # Cached files count as used, but are freed when memory is needed.
        files = sum(int(line.split()[1]) for line in lines(f"{group}stat")
                    if line.startswith(("inactive_file ", "active_file ")))
        if limit != "max":
            bounds.append(int(limit) - int(used) + files)
    return min(bounds)


def lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


def shared_bytes(n: int) -> Tensor:
    """(n,) uint8, shared with processes that are started later.

    On Linux an anonymous map, since torch would use /dev/shm, which has 64 MB in most containers.
    """
    if sys.platform == "linux":
        return torch.frombuffer(mmap.mmap(-1, n), dtype=torch.uint8)
    return torch.empty(n, dtype=torch.uint8).share_memory_()
