"""Signals, errors and the program's end in the processes that load images."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator

from utilities.errors import UserError

# What ends a run: Ctrl-C, a scheduler, the end of the terminal.
STOPPING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
            if hasattr(signal, name)}


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
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def end_workers() -> None:
    """Ends the workers of loaders that were not closed when the program ends.

    Python ends its daemonic processes by SIGTERM and waits for them. Workers ignore that signal.
    """
    if hasattr(signal, "SIGCHLD"):      # torch's handler would report their end as an error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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
