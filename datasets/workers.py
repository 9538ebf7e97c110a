"""The processes that load images: how signals, errors and the program's end reach them."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator

from utilities.errors import UserError


def ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group, but only the parent acts on them.

    The parent may stop while a thread of the worker is handing over a batch. The error that this
    thread then meets is not printed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = lambda *error: None


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the workers have started: at first they have the parent's
    handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def end_workers() -> None:
    """Ends, when the program does, the workers of loaders that were not closed.

    Python ends its daemonic processes by SIGTERM and waits for them. Workers ignore that signal.
    """
    if hasattr(signal, "SIGCHLD"):      # torch's handler would report their end as an error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


@contextlib.contextmanager
def unwrap_user_errors() -> Iterator[None]:
    """A UserError from a worker with its message alone: torch puts the worker's traceback before
    it, so that it is the last line."""
    try:
        yield
    except UserError as error:
        last_line = str(error).splitlines()[-1]
        raise UserError(last_line.removeprefix(f"{UserError.__module__}.UserError: ")) from None
