"""faiss on a GPU: whether it can compute on one, its scratch memory, and the lack of memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import faiss
import torch

from utilities.errors import RunError

SCRATCH_BYTES = 2**28
OUT_OF_MEMORY = ("out of memory", "cudaMalloc", "StandardGpuResources")


def usable(device: torch.device | str) -> bool:
    """Whether faiss can compute on `device`: a GPU, and a faiss that was built for GPUs."""
    return torch.device(device).type == "cuda" and faiss.get_num_gpus() > 0


@functools.cache
def resources(index: int) -> faiss.StandardGpuResources:
    """What faiss keeps on the GPU `index`, with its scratch memory: one object for each GPU."""
    kept = faiss.StandardGpuResources()
    kept.setTempMemory(SCRATCH_BYTES)
    return kept


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Leaves faiss the memory that torch holds but does not use; RunError where that is too little.
    """
    torch.cuda.empty_cache()
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise RunError("evaluation on the GPU lacks memory; --evaluate_on_cpu evaluates without "
                       "it") from error
