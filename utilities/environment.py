"""The machine and the versions that a run uses."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def by_torchrun() -> bool:
    """Whether torchrun has started this process, as one of `n_processes`."""
    return "MASTER_ADDR" in os.environ and all(
        os.environ.get(name, "").isdigit() for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def n_processes() -> int:
    """The processes of this run, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if by_torchrun() else 1


def n_local_processes() -> int:
    """The processes that torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if by_torchrun() else 1


def rank() -> int:
    """The number of this process among those of the run, from 0."""
    return int(os.environ["RANK"]) if by_torchrun() else 0


def local_rank() -> int:
    """The number of this process among those of the run on this machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if by_torchrun() else 0


def describe() -> dict[str, str]:
    """{name: value} of what a run's numbers may depend on besides its options: the versions of the
    libraries, the GPU in use, and the git commit of this code."""
    import faiss
    import torch
    import torchvision

    faiss_for = "gpu" if hasattr(faiss, "StandardGpuResources") else "cpu"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "none"
    several = {"processes": str(n_processes())} if by_torchrun() else {}
    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "faiss": f"faiss-{faiss_for} "
            f"{faiss.__version__}", "CUDA": torch.version.cuda or "none", "GPU": gpu,
            "git commit": _commit(), **several}


def _commit() -> str:
    """The commit of this code, marked where files differ from it; "unknown" outside of git."""
    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True,
                              timeout=10)
        return os.fsdecode(done.stdout).splitlines()

    try:
        folder, commit = git("rev-parse", "--show-toplevel", "HEAD")
        changed = git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    if Path(folder).resolve() != ROOT.resolve():
        return "unknown"
    return commit + (" with uncommitted changes" if changed else "")
