"""Unpacks archives that nobody has checked.

Nothing is written outside of the folder, no link is made or followed, and no file or archive may
grow beyond the bounds below, which no published archive comes near.
"""

import contextlib
import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from utilities import interrupt
from utilities.errors import RunError, UserError, refuse

MOST_IN_A_FILE = 2**26          # bytes of a file that is unpacked
MOST_IN_ALL = 2**34             # bytes of all files in an archive, also of those left in it
MOST_MEMBERS = 10**6
CHUNK = 2**20


class Member(NamedTuple):
    """A file in an archive: its path there, its size in bytes, how to read it, and how many bytes
    of the archive lie before its end."""

    name: str
    size: int
    open: Callable[[], BinaryIO]
    position: int


def unpack(archive: Path, into: Path, place: Callable[[tuple[str, ...]], str | None], layout: str
           ) -> None:
    """Writes files of `archive`, a tar file or a zip file, below `into`.

    place: the parts of a member's path -> where it belongs below `into`, None for a file that is
    not needed. UserError for an archive that is damaged or not safe, or without any file that is
    needed, as `layout` describes them. RunError where the disk does not take it. Shows progress
    and ends at a signal.
    """
    n_written, total = 0, 0
    with explained(archive), tqdm(desc=f"Unpacking {archive.name}", unit="B", unit_scale=True,
                                  total=archive.stat().st_size, leave=False, disable=None) as bar:
        for number, member in enumerate(members(archive)):
            interrupt.check()
            total += member.size
            if total > MOST_IN_ALL or number >= MOST_MEMBERS:
                unsafe(archive, f"holds more than {MOST_IN_ALL / 2**30:.0f} GB or {MOST_MEMBERS:,} "
                       "files")
            parts = safe_parts(archive, member.name)
            hidden = "__MACOSX" in parts or parts[-1].startswith(".")    # as macOS adds them
            target = None if hidden else place(parts)
            if target is not None:
                if member.size > MOST_IN_A_FILE:
                    unsafe(archive, f"{member.name!r} would have {member.size:,} bytes, and no "
                           f"image has more than {MOST_IN_A_FILE:,}")
                with member.open() as source:
                    content = source.read(MOST_IN_A_FILE)
                write(content, into / target)
                n_written += 1
            bar.update(member.position - bar.n)
    if not n_written:
        refuse("--archive", f"{str(archive)!r} holds no {layout}",
               "the official archive of this dataset")


def members(archive: Path) -> Iterator[Member]:
    """The files of a tar or zip archive, in its order; UserError for links and devices."""
    def check_kind(name: str, is_link: bool, is_file: bool) -> None:
        if not is_file:
            unsafe(archive, f"{name!r} is {'a link' if is_link else 'no file'}")

    if zipfile.is_zipfile(archive):
        position = 0
        with zipfile.ZipFile(archive) as whole:
            for entry in whole.infolist():
                position += entry.compress_size
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if not entry.is_dir():
                    check_kind(entry.filename, kind == stat.S_IFLNK, kind in (0, stat.S_IFREG))
                    yield Member(entry.filename, entry.file_size,
                                 partial(whole.open, entry), position)
    else:
        with open(archive, "rb") as file, tarfile.open(fileobj=file) as whole:
            for entry in whole:
                if not entry.isdir():
                    check_kind(entry.name, entry.issym() or entry.islnk(), entry.isreg())
                    yield Member(entry.name, entry.size, partial(whole.extractfile, entry),
                                 file.tell())


def safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """The parts of a member's path; UserError for one that leads out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        unsafe(archive, f"the path {name!r} leads out of the folder")
    return path.parts


def unsafe(archive: Path, what: str) -> None:
    refuse("--archive", f"{str(archive)!r} is not safe: {what}", "the official archive")


@contextlib.contextmanager
def explained(archive: Path) -> Iterator[None]:
    """UserError, naming `archive`, in place of what reading it raises."""
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:      # what a damaged file raises depends on the byte that is wrong
        refuse("--archive", f"cannot read {str(archive)!r}, which is damaged, cut short or no "
               f"archive ({' '.join(str(error).split()) or type(error).__name__})",
               "the whole official archive")


def write(content: bytes, target: Path) -> None:
    """Writes the new file `target`; RunError where the disk does not take it."""
    if os.path.lexists(target):
        refuse("--archive", f"two files belong to the place {str(target)!r}",
               "the official archive")
    with written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@contextlib.contextmanager
def written(target: Path) -> Iterator[None]:
    """RunError in place of what writing raises."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {str(target)!r}: {error.strerror or error}") from error


def md5(path: Path) -> str:
    """The MD5 checksum, in hexadecimal digits; UserError for a file that cannot be read."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open(path, "rb") as file, tqdm(
                desc=f"Checking {path.name}", total=os.fstat(file.fileno()).st_size, unit="B",
                unit_scale=True, leave=False, disable=None) as bar:
            while chunk := file.read(CHUNK):
                interrupt.check()
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        refuse("--archive", f"cannot read {str(path)!r} ({error.strerror})",
               "a file that you may read")
    return digest.hexdigest()
