"""Lists of images in text files, as Stanford Online Products and In-Shop have them."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from utilities.errors import UserError


def rows(path: Path, columns: str, *, path_column: int,
         counted: bool = False) -> list[tuple[str, list[str]]]:
    """(where it stands, row split at blanks) of each row, leaving out hidden images.

    columns: the names in the header, which must be there, since another line may be an image.
    counted: a line above the header gives the number of rows. UserError for any other content.
    """
    try:
        lines = os.fsdecode(path.read_bytes().removeprefix(codecs.BOM_UTF8)).splitlines()
    except OSError as error:
        raise UserError(f"--source_path: cannot read {str(path)!r}: {error}") from error
    names, header = columns.split(), 1 + counted
    lines += [""] * header      # for a file that ends before its header
    if lines[header - 1].split() != names:
        raise UserError(f"--source_path: line {header} of {str(path)!r} is {lines[header - 1]!r}; "
                        f"expected: {columns!r}" + " below the number of rows" * counted)
    table = []
    for number, line in enumerate(lines[header:], start=header + 1):
        row, where = line.split(), f"line {number} of {str(path)!r}"
        if row and len(row) != len(names):
            raise UserError(f"--source_path: {where} has {len(row)} columns, {len(names)} are "
                            f"expected: {line!r}")
        if row:
            table.append((where, row))
    if counted and lines[0].split() != [str(len(table))]:
        raise UserError(f"--source_path: line 1 of {str(path)!r} is {lines[0]!r}; expected: "
                        f"{len(table)}, the number of rows below the header")
    return [(where, row) for where, row in table
            if not os.path.basename(row[path_column]).startswith(".")]


def existing(samples: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`samples`, unchanged; UserError when files are missing.

    Folders are listed once, which is faster than a look-up of each of 120,000 files.
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
