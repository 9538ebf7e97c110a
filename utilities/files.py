"""Questions to the file system, which answers some of them with an exception."""

import os
import stat
from pathlib import Path

KINDS = {"file": stat.S_ISREG, "folder": stat.S_ISDIR}


def fault(path: str | Path, kind: str | None = None) -> str | None:
    """What is wrong with `path`, in words that follow its name; None where it can be reached and is
    of this `kind` ("file", "folder" or, by default, any).

    pathlib's `exists` and its like raise an error for a name that is too long, a folder that may
    not be entered and, some of them, for links that lead in a circle.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    return None if kind is None or KINDS[kind](mode) else f"is no {kind}"


def is_folder(entry: os.DirEntry) -> bool:
    """Whether `entry` is a folder, or a link that leads to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry) -> bool:
    """Whether `entry` is a file, or a link that leads to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def working_directory() -> str:
    """The absolute path of the working directory; "." where that was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return "."
