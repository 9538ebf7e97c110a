"""Random numbers that follow from what they are for, such as (seed, epoch, step)."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


def seeds(*numbers: int, n: int) -> list[int]:
    """n independent seeds of 63 bits from the numbers (each at least 0), the same on every machine.
    A larger n adds seeds and changes none."""
    words = np.random.SeedSequence(numbers).generate_state(n, np.uint64)
    return (words >> np.uint64(1)).tolist()


@contextlib.contextmanager
def stream(*numbers: int, device: torch.device | None = None) -> Iterator[None]:
    """Meanwhile torch draws random numbers that depend only on the numbers given. Afterwards its
    generators are what they were before. device: a GPU whose generator is seeded, too."""
    seed, = seeds(*numbers, n=1)
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield
