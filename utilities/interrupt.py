"""Ctrl-C and SIGTERM end a run between two consistent states.

An exception that a signal handler raises at an arbitrary point is not safe: libraries swallow it in
destructors or turn it into other errors. So a signal is only noted, and the next `check`, which
loaders call at each batch, raises it. Without a check within PATIENCE seconds (a long clustering),
or at a second signal, it is raised wherever the program is.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

from utilities.errors import RunError, UserError

PATIENCE = 5.0


class Interrupted(BaseException):
    """The process was asked to stop by the signal `signum`; it then exits with `status`."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP make `check` raise `Interrupted`."""

    def __init__(self):
        self.pending: int | None = None
        self.shielded = False

    def __enter__(self):
        global active
        active, self.process = self, os.getpid()
        handlers = {signal.SIGINT: self._receive, signal.SIGTERM: self._receive,
                    signal.SIGALRM: self._raise}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:   # as under nohup
            handlers[signal.SIGHUP] = self._receive
        self.before = {number: signal.signal(number, handler)
                       for number, handler in handlers.items()}
        return self

    def __exit__(self, _kind, error, _trace):
        global active
        active = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.pending is not None and isinstance(error, Exception) and not isinstance(
                error, (UserError, RunError)):
            raise Interrupted(self.pending) from error  # what a library made of `Interrupted`

    def _receive(self, signum, _frame):
        if os.getpid() != self.process:
            return
        is_second, self.pending = self.pending is not None, signum
        if is_second:
            self._raise()
        else:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _raise(self, *_):
        if not self.shielded:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted(self.pending)


active: Interrupts | None = None


def check() -> None:
    """Raises `Interrupted` if a signal has come; does nothing outside of `Interrupts`."""
    if active is not None and active.pending is not None:
        active._raise()


@contextlib.contextmanager
def shield(*, raises: bool = True) -> Iterator[None]:
    """Signals wait for the block's end, so that logs and checkpoints are written whole; unless it
    `raises`, for the next `check`. Does nothing outside of `Interrupts`."""
    if active is None:
        yield
        return
    active.shielded = True
    try:
        yield
    finally:
        active.shielded = False
    if raises:
        check()
