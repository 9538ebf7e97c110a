"""Batches on the device, in the order that a sampler gives or in file order."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets import Batch
from datasets.dataset import Dataset
from datasets.images import available_cores
from utilities import interrupt
from utilities.errors import RunError, UserError


class Loader:
    """Walks a dataset epoch by epoch; len() = batches in an epoch.

    With a sampler: the sampler's batches. Without: all images in file order, the last batch
    shorter. Augmentation follows (seed, epoch, step, slot in the batch), so the pixels are the same
    for any number of workers.
    """

    def __init__(self, dataset: Dataset, opt, device: torch.device | str, sampler=None):
        self.dataset, self.device = dataset, torch.device(device)
        self.batches = sampler if sampler is not None else InOrder(len(dataset), opt.bs)
        self.channels_last = opt.channels_last
        normalisation = dataset.normalisation
        self.bgr = normalisation.bgr
        step = -1 if self.bgr else 1
        mean, std = (torch.tensor(constants[::step], device=self.device).view(3, 1, 1)
                     for constants in (normalisation.mean, normalisation.std))
        self.shift, self.scale = 255 * mean, 1 / (255 * std)
        self.keys = Keys(self.batches)
        self.started: tuple[int, Iterator] | None = None
        n_workers = min(opt.kernels, available_cores(), len(self))
        if opt.cache == "ram":
            dataset.images.keep(available_cores())
        if opt.cache == "gpu" and dataset.images.training:
            from datasets.device_cache import DeviceBatches

            self.source = DeviceBatches(dataset, self.keys, self.device, available_cores())
        else:
            self.source = DataLoader(
                Read(dataset), sampler=self.keys, batch_size=None, collate_fn=unchanged,
                num_workers=n_workers, persistent_workers=n_workers > 0,
                worker_init_fn=leave_signals_to_the_parent, pin_memory=self.device.type == "cuda",
                multiprocessing_context="fork" if n_workers and sys.platform == "linux" else None,
                # Its own, so that the global generator does not depend on the workers.
                generator=torch.Generator())

    def __len__(self) -> int:
        return len(self.batches)

    def start(self, epoch: int) -> None:
        """Lets the workers read the first batches of `epoch`, which is to come next. Its batches
        are chosen by what the sampler knows now."""
        self.keys.epoch = epoch
        with signals_later():
            self.started = epoch, iter(self.source)     # starts the workers, the first time
        OPEN.add(self)
        atexit.unregister(close_all)   # to run once, and before what torch has registered by now
        atexit.register(close_all)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch`, float32 and normalised, on the device."""
        if self.started is None or self.started[0] != epoch:
            self.start(epoch)
        (_, batches), self.started = self.started, None
        for batch in batches:
            interrupt.check()
            if isinstance(batch, UserError):
                raise batch
            yield self.to_device(batch)

    def to_device(self, batch: Batch) -> Batch:
        batch = Batch(*(field if field is None else field.to(self.device, non_blocking=True)
                        for field in batch))
        return batch._replace(**{
            name: self.normalise(getattr(batch, name))
            for name in ("images", "second_views", "rotated_views")
            if getattr(batch, name) is not None})

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) grey levels -> float32: bytes travel, floats are made on the device."""
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = pixels.flip(1) if self.bgr else pixels
        return pixels.to(torch.float32, memory_format=form).sub_(self.shift).mul_(self.scale)

    def close(self) -> None:
        """Ends the workers; a further epoch starts new ones."""
        self.started = None
        workers = getattr(self.source, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()
            self.source._iterator = None


OPEN: weakref.WeakSet[Loader] = weakref.WeakSet()


def close_all() -> None:
    """At exit: multiprocessing would wait for workers that it cannot end by SIGTERM."""
    for loader in list(OPEN):
        loader.close()


class InOrder:
    """Every index once, in order, in batches of `batch_size`."""

    def __init__(self, n: int, batch_size: int):
        self.n, self.batch_size = n, batch_size

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.n, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.n)))

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""


class Keys:
    """(epoch, step, indices) of each batch: all that a batch depends on."""

    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        return self.of(self.epoch)

    def of(self, epoch: int) -> Iterator[tuple[int, int, list[int]]]:
        self.batches.set_epoch(epoch)
        for step, indices in enumerate(self.batches):
            yield epoch, step, indices


class Read(torch.utils.data.Dataset):
    """The batch of a key. A broken file's error is handed over as it is, since torch wraps what a
    worker raises into a traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, list[int]]) -> Batch | UserError:
        epoch, step, indices = key
        try:
            return self.dataset.batch(indices, epoch=epoch, step=step)
        except UserError as error:
            return error


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Holds back Ctrl-C and SIGTERM: in a worker that is starting they would still have the
    parent's handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def lost_workers_named() -> Iterator[None]:
    """RunError instead of torch's when a worker is gone; it comes up wherever the program is."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError("a process that loads images has ended (killed, where memory runs out); "
                       "fewer of them, by --kernels, need less") from error


def unchanged(batch):
    return batch


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; only the parent acts on them.

    When it stops in the middle of taking over a batch, the thread that gives it has nothing to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = lambda *error: None
