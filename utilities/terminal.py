"""What stands between a program and its terminal: output that never ends a run, and Ctrl-C.

A run of days is not lost for a line of text. What a stream cannot take is left out: the reader has
gone (`| head`), the disk behind a redirection is full, the stream is closed. Characters that its
encoding lacks are escaped.
"""

import errno
import io
import os
import re
import shlex
import signal
import sys
from typing import TextIO

from utilities import environment
from utilities.errors import RunError


class Output(io.FileIO):
    """A file for writing that drops what it cannot write.

    error: why, the last time; None also where the reader has gone, who asked for no more.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            self.error = None if error.errno == errno.EPIPE else error
            written = None
        return len(data) if written is None else written    # None: it would have to wait


def prepare() -> None:
    """For a program's first line: protects stdout and stderr, and lets Ctrl-C end the program at
    once and without a traceback until `Interrupts` takes over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for handle in range(3):     # a closed one would be given to the next file, a checkpoint say
        try:
            os.fstat(handle)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = protected(1, sys.stdout), protected(2, sys.stderr)
    if environment.rank():              # of several processes the first one speaks
        hush("stdout")
        os.environ["TQDM_DISABLE"] = "1"
    if environment.local_rank():        # mistakes are named once on each machine
        hush("stderr")


def hush(name: str) -> None:
    """Drops what is printed on `name`, stdout or stderr."""
    setattr(sys, name, protected(os.open(os.devnull, os.O_WRONLY), getattr(sys, name)))


def speak() -> None:
    """Ends what `hush` does to stderr."""
    sys.stderr = protected(2, sys.__stderr__)


def protected(handle: int, stream: TextIO | None) -> TextIO:
    """A stream that writes to `handle` as `stream` does (None: a closed one), and never fails."""
    return io.TextIOWrapper(
        io.BufferedWriter(Output(handle, "wb", closefd=False)),
        encoding=getattr(stream, "encoding", None), errors="backslashreplace",
        line_buffering=stream is None or stream.line_buffering or stream.write_through)


def check_output() -> None:
    """For commands whose result is what they print: RunError where stdout did not take it."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if error := getattr(raw, "error", None):
        raise RunError(f"cannot write to stdout: {error.strerror}")


def escaped(text: str) -> str:
    """`text` without bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def shell_word(path: str | os.PathLike) -> str:
    """`path` as a word of a shell's command line, as bash's $'...' in ASCII where stderr cannot
    show it."""
    text = os.fspath(path)
    try:
        text.encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        escaped = re.sub(rb"[^\w./ -]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(path))
        return f"$'{escaped.decode()}'"
    return shlex.quote(text)
