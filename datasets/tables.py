"""Lists of images in text files, as Stanford Online Products and In-Shop have them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from utilities.errors import UserError


def rows(path: Path, *, header: int, columns: int, path_column: int) -> list[list[str]]:
    """The file's rows behind `header` lines, split at blanks; without those of hidden images."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--source_path: cannot read {str(path)!r}: {error}") from error
    table = []
    for number, line in enumerate(lines[header:], start=header + 1):
        row = line.split()
        if row and len(row) != columns:
            raise UserError(f"--source_path: line {number} of {str(path)!r} has {len(row)} "
                            f"columns, {columns} are expected: {line!r}")
        if row and not os.path.basename(row[path_column]).startswith("."):
            table.append(row)
    return table


def existing(samples: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`samples` as they are; UserError when files are not there.

    Folders are listed once, instead of asking for each of 120,000 files.
    """
    listed = {}
    missing = []
    for path, _ in samples:
        parent, name = os.path.split(path)
        if parent not in listed:
            listed[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in listed[parent] and not os.path.exists(path):
            missing.append(path)
    if missing:
        raise UserError(f"--source_path: {len(missing):,} of {len(samples):,} listed images are "
                        f"missing, the first is {missing[0]!r}")
    return samples


def by_class(samples: list[tuple[str, str]],
             order: Callable[[str], object] = str) -> list[tuple[str, str]]:
    """`samples` sorted by class, in file order within it."""
    return sorted(samples, key=lambda sample: order(sample[1]))
