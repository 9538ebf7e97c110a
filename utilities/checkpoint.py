"""Checkpoints: written atomically, read without running code.

A file is written beside its target, flushed to the disk and renamed over it, so the target is a
whole version at any moment. Checkpoints hold tensors and plain Python types only and are always
read with `weights_only=True`, so that a file from somebody else cannot run code.
"""

import contextlib
import io
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from utilities.errors import RunError, UserError, refuse
from utilities.files import fault

# One name per folder, so that the next write overwrites what a killed process left behind. For
# the folder of a run, in which one process writes; files elsewhere go by `tool.write`.
TEMPORARY = ".writing.tmp"


def save(path: str | Path, state: Any) -> None:
    """Writes `state` (tensors, plain types and containers of them) to `path`, atomically.

    RunError when the disk or the folder does not allow it; an older file at `path` is kept.
    """
    replace(Path(path), lambda file: torch.save(state, file))


def save_same(paths: Sequence[Path], state: Any) -> None:
    """Writes `state` once, with a hard link for each of `paths`; a file for each where the file
    system has no links. RunError as in `save`."""
    if not paths:
        return
    save(paths[0], state)
    for path in paths[1:]:
        temporary = path.with_name(TEMPORARY)
        try:
            temporary.unlink(missing_ok=True)
            os.link(paths[0], temporary)
            os.replace(temporary, path)
        except OSError:
            save(path, state)


class LastEpoch:
    """The state after the last whole epoch: written to `path` every `every` epochs, held in memory
    in between and written by `flush` when the run ends, unless the process is killed."""

    def __init__(self, path: Path, every: int):
        self.path, self.every = path, every
        self.held: bytes | None = None

    def save(self, state: Any, epochs: int) -> None:
        """Takes the state after the first `epochs` epochs. RunError as in `save`."""
        if epochs % self.every == 0:
            save(self.path, state)
            self.held = None    # only now: a write that fails leaves the earlier epoch to `flush`
        else:
            memory = io.BytesIO()
            torch.save(state, memory)
            self.held = memory.getvalue()

    def flush(self) -> None:
        """Writes what is held. RunError as in `save`."""
        if self.held is not None:
            replace(self.path, lambda file: file.write(self.held))
            self.held = None


def write_text(path: str | Path, text: str, *, sync: bool = True) -> None:
    """Writes `text` as UTF-8 to `path`, atomically, and bytes of paths that are none unchanged;
    RunError as in `save`. sync=False leaves it to the system when the text reaches the disk, for
    files that a later epoch rewrites."""
    replace(Path(path), lambda file: file.write(text.encode(errors="surrogateescape")), sync=sync)


def load(path: str | Path, map_location: Any = "cpu", *, flag: str = "--checkpoint",
         mmap: bool = False) -> Any:
    """The state in `path`, its tensors on `map_location`; with mmap they stay in the file until
    they are read.

    UserError, naming `flag`, when there is no such file, when it cannot be read or is cut short,
    and when it holds anything but tensors and plain types.
    """
    path = Path(path)
    if wrong := fault(path, "file"):
        refuse(flag, f"{str(path)!r} {wrong}", "a checkpoint of this program")
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except OSError as error:
        refuse(flag, f"{str(path)!r} cannot be read ({error.strerror or error})",
               "a checkpoint of this program")
    except Exception as error:  # what a damaged file raises depends on the byte that is wrong
        refuse(flag, f"{str(path)!r} is damaged, cut short or holds more than tensors and plain "
               f"types ({type(error).__name__})",
               "a whole checkpoint of this program")


def restore(path: str | Path, load_state_dict: Callable[[Any], Any], *, flag: str) -> None:
    """Hands the state in `path` to `load_state_dict`; UserError, naming `flag`, as in `load` and
    when the state does not fit the run."""
    state = load(path, flag=flag)
    try:
        load_state_dict(state)
    except (RunError, UserError):
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        refuse(flag, f"{str(path)!r} does not fit the run's options ({type(error).__name__})",
               "the checkpoint that the run wrote")


class RandomState:
    """The random generators of Python, NumPy, torch and, once CUDA is in use, the current GPU."""

    @staticmethod
    def state_dict() -> dict[str, Any]:
        version, words, next_gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state()
        keys = torch.from_numpy(keys.astype(np.int64))
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
        return {"python": [version, list(words), next_gauss],
                "numpy": [kind, keys, position, has_gauss, cached],
                "torch": torch.get_rng_state(), "cuda": cuda}

    @staticmethod
    def load_state_dict(state: dict[str, Any]) -> None:
        """Restores every generator; that of a GPU only where CUDA is in use again."""
        version, words, next_gauss = state["python"]
        random.setstate((version, tuple(words), next_gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_initialized() and state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][0].cpu())


def replace(path: Path, write: Callable[[BinaryIO], Any], *, sync: bool = True,
            temporary: str = TEMPORARY) -> None:
    """Calls `write` with a temporary file, which then replaces `path` if all went well. RunError
    as in `save`; sync=False as in `write_text`. temporary: its name, another one where several
    processes may write into the folder."""
    temporary = path.with_name(temporary)
    try:
        with open(temporary, "wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch.save hides what the file raised in a RuntimeError.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        raise RunError(f"cannot write {str(path)!r}: {cause.strerror or cause}; what was there "
                       "before is untouched") from error
    if sync:
        with contextlib.suppress(OSError):      # of file systems that cannot flush a rename
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
