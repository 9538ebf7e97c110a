"""Batches on the device, in the order that a sampler gives or in file order."""

import sys
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets import Batch
from datasets.dataset import QUARTER_TURNS, Dataset, collate
from datasets.workers import (
    allow_open_files,
    block_signals,
    ignore_signals,
    unwrap_user_errors,
)
from utilities import interrupt
from utilities.distributed import ALONE, Alone
from utilities.environment import available_cores
from utilities.random_streams import seeds


class Loader:
    """Walks a dataset epoch by epoch; len() = batches in an epoch.

    With a sampler: the sampler's batches. Without: all images in file order, the last batch
    shorter. Augmentation follows (seed, epoch, step, slot in the batch), so the pixels are the same
    for any number of workers and processes.

    On several processes each reads its share: with a sampler of every batch, whose labels, indices
    and rotations it knows as a whole; without, of the images, in smaller batches.
    """

    def __init__(self, dataset: Dataset, opt, device: torch.device | str, sampler=None,
                 processes: Alone = ALONE):
        self.dataset, self.device = dataset, torch.device(device)
        self.batches = (Shares(sampler, dataset.seed, processes) if sampler is not None else
                        InOrder(len(dataset), opt.bs, dataset.seed, processes))
        self.labels = torch.as_tensor(dataset.labels)
        self.n_workers = min(opt.kernels, available_cores(), len(self))
        if self.n_workers:
            allow_open_files(self.n_workers)
        self.form = torch.channels_last if opt.channels_last else torch.contiguous_format
        self.bgr = dataset.inputs.bgr
        step = -1 if self.bgr else 1
        mean, std = (torch.tensor(constants[::step], device=self.device).view(3, 1, 1)
                     for constants in (dataset.inputs.mean, dataset.inputs.std))
        self.shift, self.scale = 255 * mean, 1 / (255 * std)
        self.cache = dataset.device_cache
        if self.cache is not None:
            self.cache.fill(self.device, available_cores())
        self.source: DataLoader | None = None       # of batches on the host
        self.started: tuple[int, Iterator] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def start(self, epoch: int) -> None:
        """Lets the workers read the first batches of `epoch`, which must be the next one that is
        iterated. The sampler chooses them by its present state."""
        if self.source is None:
            items = self.dataset if self.cache is None else self.cache.drawing(self.dataset)
            fork = self.n_workers and sys.platform == "linux"
            self.source = DataLoader(
                items, batch_sampler=self.batches, collate_fn=collate, num_workers=self.n_workers,
                persistent_workers=self.n_workers > 0, worker_init_fn=ignore_signals,
                pin_memory=self.device.type == "cuda",
                multiprocessing_context="fork" if fork else None,
                generator=torch.Generator())    # so that it draws nothing from the global one
        self.batches.epoch = epoch
        with block_signals():
            self.started = epoch, iter(self.source)     # the first call starts the workers

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch`, float32 and normalised, on the device."""
        if self.started is None or self.started[0] != epoch:
            self.start(epoch)
        (_, batches), self.started = self.started, None
        with unwrap_user_errors():
            for batch in batches:
                interrupt.check()
                yield self.to_device(batch, torch.tensor(self.batches.drawn.popleft()))

    def to_device(self, batch: Batch, indices: Tensor) -> Batch:
        """The views in `batch`, this process's share, with the labels and rotations of all images
        of the whole batch, which are `indices`."""
        turns = batch.rotations.tolist()
        if self.cache is not None:
            batch = self.cache.render(batch, self.dataset.transforms)
        batch = batch._replace(labels=self.labels[indices], indices=indices,
                               rotations=indices % QUARTER_TURNS)
        batch = Batch(*(field if field is None else field.to(self.device, non_blocking=True)
                        for field in batch))
        if batch.rotated_views is not None:
            batch = batch._replace(rotated_views=torch.stack([
                view.rot90(n, (1, 2)) for view, n in zip(batch.rotated_views, turns, strict=True)]))
        return batch._replace(**{
            name: self.normalise(getattr(batch, name))
            for name in ("images", "second_views", "rotated_views")
            if getattr(batch, name) is not None})

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, on the device, since sending bytes is faster."""
        pixels = pixels.flip(1) if self.bgr else pixels
        return pixels.to(torch.float32, memory_format=self.form).sub_(self.shift).mul_(self.scale)

    def close(self) -> None:
        """Drops the DataLoader, which ends its workers once nothing refers to it any more, such as
        a traceback. A further epoch starts new ones."""
        self.source = self.started = None


class Shares:
    """The share of one process in the sampler's batches of the epoch `epoch`, as lists of
    (index, seed). `drawn` holds the indices of the whole batches that the loader has yet to give.
    """

    def __init__(self, sampler, seed: int, processes: Alone):
        self.sampler, self.seed, self.processes, self.epoch = sampler, seed, processes, 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, self.drawn = self.epoch, deque()
        self.sampler.set_epoch(epoch)
        for step, indices in enumerate(self.sampler):
            self.drawn.append(indices)
            of_slots = seeds(self.seed, epoch, step, n=len(indices))
            yield [(indices[slot], of_slots[slot]) for slot in self.processes.rows(len(indices))]


class InOrder:
    """Like `Shares`, of every image once, in order; each process has a block of them.

    The seed of an image is that of its step and slot in batches of `batch_size`.
    """

    def __init__(self, n_images: int, batch_size: int, seed: int, processes: Alone):
        self.block, self.seed, self.epoch = processes.block(n_images), seed, 0
        self.batch_size, self.most = batch_size, max(1, batch_size // processes.size)

    def __len__(self) -> int:
        return sum(1 for _ in self.pieces())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, self.drawn = self.epoch, deque()
        for piece in self.pieces():
            self.drawn.append(list(piece))
            step, slot = divmod(piece.start, self.batch_size)
            of_slots = seeds(self.seed, epoch, step, n=slot + len(piece))[slot:]
            yield list(zip(piece, of_slots, strict=True))

    def pieces(self) -> Iterator[range]:
        """The block in batches, none of which spans two of `batch_size`."""
        first = self.block.start
        while first < self.block.stop:
            end = (first // self.batch_size + 1) * self.batch_size
            piece = range(first, min(first + self.most, end, self.block.stop))
            yield piece
            first = piece.stop
