"""Signals, errors and the end of the processes that load images."""

import atexit
import contextlib
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator

from utilities.errors import RunError, UserError, refuse

# What ends a run: Ctrl-C, a scheduler, the end of the terminal.
STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
ENOUGH_FILES = 2**16    # that a process may open at once
# How the system, and torch where it hands a batch over, say that no more files can be opened.
OUT_OF_FILES = (os.strerror(errno.EMFILE), "received 0 items of ancdata")


def ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group, but only the parent acts on them.

    If the parent stops while a thread of the worker hands over a batch, that thread's error is not
    printed.
    """
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    sys.excepthook = lambda *error: None


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Holds back Ctrl-C and SIGTERM while workers start, since they begin with the parent's
    handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def allow_open_files(n_workers: int) -> None:
    """Raises this process's limit of open files, within what the system allows; UserError where too
    few are left. A worker that can open no file for a batch drops it, and the run would wait for
    that batch for ever."""
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = ENOUGH_FILES if highest == unlimited else min(highest, ENOUGH_FILES)
    if limit != unlimited and limit < wanted:
        with contextlib.suppress(OSError, ValueError):      # macOS has a further limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, highest))
    if highest != unlimited and highest < 64 + 8 * n_workers:
        refuse("--kernels", f"{n_workers} processes that load images need more open files than the "
               f"{highest} that `ulimit -Hn` allows", "a higher limit, or 0")


@atexit.register
def end_workers() -> None:
    """Ends the workers of loaders that were not closed when the program ends.

    Python ends its daemonic processes by SIGTERM and waits for them. Workers ignore that signal.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)   # torch's would report their end as an error
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


@contextlib.contextmanager
def unwrap_user_errors() -> Iterator[None]:
    """Reduces a worker's UserError to its message, the last line after the traceback that torch
    adds."""
    try:
        yield
    except UserError as error:
        last_line = str(error).splitlines()[-1]
        raise UserError(last_line.removeprefix(f"{UserError.__module__}.UserError: ")) from None


@contextlib.contextmanager
def explain_lost_workers() -> Iterator[None]:
    """RunError in one line, instead of torch's error, when a worker has ended too early, and when
    too many files are open. torch raises the first in a signal handler, so it may come from
    anywhere in the program."""
    try:
        yield
    except RunError:
        raise
    except (OSError, RuntimeError) as error:
        if any(words in str(error) for words in OUT_OF_FILES):
            raise RunError("too many files are open at once; allow more by `ulimit -n`, or use "
                           "fewer --kernels") from error
        if (cause := why_lost(str(error))) is None:
            raise
        raise RunError(f"a process that loads images has ended: {cause}") from error


def why_lost(message: str) -> str | None:
    """Why a worker ended, by the `message` of torch's error; None for any other error."""
    if "DataLoader worker" not in message:
        return None
    if ("Bus error" in message or "shared memory" in message
            or ("torch_" in message and "No space left on device" in message)):
        size = (f", of {shutil.disk_usage('/dev/shm').total / 2**20:,.0f} MB here,"
                if os.path.isdir("/dev/shm") else "")
        return (f"batches pass through the shared memory in /dev/shm{size} and found no room; "
                "start the container with more (docker run --shm-size 8g), or load images in the "
                "main process by --kernels 0")
    if "signal: Killed" in message:
        return ("it was killed, as the system does where memory runs out; fewer of them, by "
                "--kernels, need less")
    is_lost = "killed by signal" in message or "exited unexpectedly" in message
    return f"{message.splitlines()[0]}; fewer --kernels need less memory" if is_lost else None
