"""The frame of a tool, `python -m <room>.<tool>`.

Its options are read as those of diva_main.py: `--help` and mistakes are answered before torch is
imported, in the same words. It ends with status 0, 2 after a user's mistake, 1 after a failure.
"""

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from utilities import options
from utilities.errors import RunError, UserError, refuse
from utilities.files import fault
from utilities.options import Flag


def read_arguments(program: str, description: str, flags: Sequence[Flag],
                   argv: Sequence[str] | None = None) -> Namespace:
    """The options of the command line `argv` (sys.argv's when None), each checked by itself;
    `.given` holds the names of those that the user gave. A mistake is printed in one line on stderr
    and ends the program with status 2."""
    try:
        arguments = options.parse(sys.argv[1:] if argv is None else argv, f"python -m {program}",
                                  description, {"flags": flags})
        for flag in flags:
            value = getattr(arguments, flag.dest)
            if flag.required and flag.dest not in arguments.given:
                refuse(flag.name, "not given", flag.help)
            if "" in (value if isinstance(value, list) else [value]):
                refuse(flag.name, "'' given", flag.form)
            flag.check(value)
    except UserError as error:
        tell(program, error)
        raise SystemExit(2) from None
    return arguments


def run(program: str, work: Callable[[Namespace], int | None], arguments: Namespace) -> int:
    """Does the tool's work and returns the exit status, 0 where `work` returns None."""
    from utilities.interrupt import Interrupted, Interrupts
    from utilities.terminal import check_output

    explained = contextlib.nullcontext()
    if "torch" in sys.modules:      # otherwise the tool uses no GPU, and torch takes seconds
        from utilities import setup

        explained = setup.explain_out_of_memory()
    try:
        with Interrupts(), explained:
            status = work(arguments) or 0
            check_output()
    except (UserError, RunError) as error:
        tell(program, error)
        return error.status
    except Interrupted as stop:
        return stop.status
    return status


def tell(program: str, error: Exception) -> None:
    """Prints what went wrong in one line."""
    print(f"{program}: error: {' '.join(str(error).splitlines())}", file=sys.stderr)


def check_new(path: Path, flag: str) -> None:
    """UserError where `path`, given by `flag`, is there already or cannot be made."""
    if os.path.lexists(path):
        refuse(flag, f"{str(path)!r} exists", "a path where nothing is yet")
    check_folder(path, flag)


def check_folder(path: Path, flag: str) -> None:
    """UserError where no file can be written as `path`, given by `flag`."""
    if wrong := fault(path.parent, "folder"):
        refuse(flag, f"the folder of {str(path)!r} {wrong}", "a path in a folder that exists")
    if (wrong := fault(path)) and wrong != "does not exist":
        refuse(flag, f"{str(path)!r} {wrong}", "a path that can be written")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        refuse(flag, f"the folder of {str(path)!r} cannot be written", "one that can")


def write(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Calls `writer` with a file that becomes `path` once it is whole, also where several tools
    write into the folder. RunError where the disk or the folder does not allow it."""
    from utilities.checkpoint import replace

    replace(path, writer, temporary=f".{path.name[:100]}.{os.getpid()}.tmp")


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` in the manner of `write`, encoded as by `checkpoint.write_text`."""
    write(Path(path), lambda file: file.write(text.encode(errors="surrogateescape")))
