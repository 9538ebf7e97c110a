"""The folder of a run, `<save_path>/<dataset>/<savename>`, and the files that describe the run."""

import hashlib
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from utilities.checkpoint import write_text
from utilities.errors import refuse
from utilities.files import fault
from utilities.options import OPTIONS_FILE
from utilities.terminal import shell_word

LAST = "checkpoint_last.pth.tar"
MAX_BYTES = 200  # of a file name; file systems allow 255, suffixes included


def create(save_path: str | Path, dataset: str, savename: str) -> Path:
    """Makes and returns `<save_path>/<dataset>/<savename>`, with a number appended where that
    exists. Two runs that start at once get two folders. UserError where it cannot be made.
    """
    parent = Path(save_path) / file_name(dataset)
    name = file_name(savename)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in itertools.count():
            folder = parent / (f"{name}_{attempt}" if attempt else name)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        refuse("--save_path", f"cannot create {str(parent / name)!r} ({error.strerror or error})",
               "a folder that can be written")


def lock(folder: str | Path) -> FileLock:
    """Keeps other processes from training in `folder` until the lock is released or this process
    ends, by whatever cause; UserError where another one trains there. Does nothing on file systems
    without locks.
    """
    lock = FileLock(Path(folder) / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        refuse("--resume", f"another process is training in {str(folder)!r}",
               "the folder of a run that has ended")
    except (OSError, NotImplementedError):
        pass  # no locks, or a folder that cannot be written, which the first write reports
    return lock


def resume_command(folder: str | Path) -> str:
    """The shell command that resumes the run in `folder`."""
    return f"python diva_main.py --resume {shell_word(folder)}"


def last(folder: str | Path) -> Path | None:
    """The checkpoint of the run's last whole epoch, if there is one."""
    path = Path(folder) / LAST
    return None if fault(path) else path


def epochs_in(state: dict[str, Any], n_epochs: int) -> int:
    """How many epochs a run had trained when it saved `state`; UserError where it is to be resumed
    for fewer."""
    done = state["epoch"]
    if n_epochs < done:
        refuse("--n_epochs", f"{n_epochs} given, but the run has trained {done} epochs",
               f"a whole number from {done} upwards")
    return done


def describe(folder: str | Path, options: dict[str, Any], environment: dict[str, str]) -> None:
    """Writes `options` (plain types, no secret) as `options.json`, for `--resume`, and, with the
    run's `environment`, as `Parameter_Info.txt`, for people. The environments of earlier parts of
    the run stay in front of one that differs."""
    path = Path(folder) / "Parameter_Info.txt"
    used = "\n".join(f"{name}: {value}" for name, value in environment.items())
    before = "" if fault(path) else path.read_bytes().decode(errors="surrogateescape")
    earlier = before.strip().split("\n\n")[1:]
    if used not in earlier[-1:]:
        earlier.append(used)
    lines = [f"{name}: {value}" for name, value in sorted(options.items())]
    write_text(path, "\n\n".join(["\n".join(lines), *earlier]) + "\n")
    write_text(Path(folder) / OPTIONS_FILE, json.dumps(options, indent=1, sort_keys=True) + "\n")


def checkpoint_name(evaltype: str, metric: str) -> str:
    """The file of the best checkpoint for `evaltype` by `metric`."""
    return f"checkpoint_{file_name(f'{evaltype}_{metric}')}.pth.tar"


def summarise(folder: str | Path, minutes: float, table: str) -> None:
    """Writes `training_summary.txt`: the training time and the table of best values."""
    write_text(Path(folder) / "training_summary.txt",
               f"Training time: {minutes:.2f} min\n\n{table}\n")


def file_name(text: str) -> str:
    """`text` if it is a valid file name everywhere. Otherwise forbidden characters are replaced,
    the name is cut to MAX_BYTES, and a digest keeps the names of different texts different.
    """
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", text)
    name = name.rstrip(". ") if name.strip(". ") else "_"
    if name == text and len(os.fsencode(name)) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    short = os.fsencode(name)[:MAX_BYTES - 9].decode(sys.getfilesystemencoding(), "ignore")
    return f"{short}-{digest}"
