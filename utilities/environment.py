"""The machine and the versions that a run uses."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, str]:
    """{name: value} of what a run's numbers may depend on besides its options: the versions of the
    libraries, the GPU in use, and the git commit of this code."""
    import torch

    faiss = next((f"{name} {version}" for name in ("faiss-gpu", "faiss-cpu")
                  if (version := _version(name))), "unknown")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "none"
    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": _version("torchvision") or "unknown", "faiss": faiss,
            "CUDA": torch.version.cuda or "none", "GPU": gpu, "git commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of this code, marked where files differ from it; "unknown" outside of git."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return "unknown"
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + (" with uncommitted changes" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True,
                          check=True, timeout=10)
    return done.stdout.strip()
