"""Lists of images in text files, as Stanford Online Products and In-Shop have them."""

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
        raise UserError(f"--source_path: cannot read {str(path)!r}: {error.strerror}; "
                        "accepted: a text file that you may read") from error
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


def repeated(table: list[tuple[str, list[str]]], *, path_column: int) -> list[str]:
    """A line for each row of `table`, as `rows` gives it, whose path stands in an earlier row. Such
    an image would be its own neighbour, or be tested on after it was trained on."""
    places = [(where, row[path_column], os.path.normpath(row[path_column])) for where, row in table]
    first = {path: where for where, _, path in reversed(places)}    # the earliest row is kept
    return [f"--source_path: {written!r} stands in {first[path]} and in {where}; accepted: each "
            "path once, in one split" for where, written, path in places if where != first[path]]
