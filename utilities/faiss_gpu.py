"""faiss on a GPU: whether it can use one, its scratch memory, and the error when memory runs out.
"""

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
    """faiss's resources on the GPU `index`, with its scratch memory: one object for each GPU."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(SCRATCH_BYTES)
    return resources


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Frees the memory that torch holds but does not use; RunError where faiss needs more."""
    torch.cuda.empty_cache()
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise RunError("evaluation on the GPU lacks memory; --evaluate_on_cpu, also possible with "
                       "--resume, evaluates without it") from error
