"""`table.csv`, with the columns of open-metric-learning.

`path` (relative to the table's folder, or absolute), `label`, `split` (train, or validation, which
is the test split); optional: `is_query` and `is_gallery` of validation rows, a box `x_1, y_1, x_2,
y_2` in pixels of the stored image (left, top, right, bottom) and `category`. Other columns are left
alone. Where each validation row is query and gallery, or no row says what it is, the test images
search among themselves. Format: open-metric-learning.readthedocs.io, "Dataset format".
"""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Damaged, Samples
from datasets.class_folders import by_number
from datasets.images import Box, TablePath, in_parallel, stored_size
from utilities.environment import available_cores
from utilities.errors import UserError, refuse

TABLE = "table.csv"
REQUIRED = ("path", "label", "split")
ROLES = ("is_query", "is_gallery")
BOX = ("x_1", "y_1", "x_2", "y_2")
EMPTY = {"", "none", "nan"}
WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False,
         **dict.fromkeys(EMPTY)}


class Entry(NamedTuple):
    """A row: `path`, which knows its row, box and category; query and gallery: what `is_query` and
    `is_gallery` say, None where they say nothing."""

    path: TablePath
    label: str
    split: str
    query: bool | None
    gallery: bool | None

    @property
    def sample(self) -> tuple[str, str]:
        return self.path, self.label


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing"} or, with queries, {"training", "testing_query", "testing_gallery"}:
    (path, label) of each image, label by label. Damaged where the table contradicts itself."""
    entries, faults = [], []
    header, table = rows(folder / TABLE)
    for where, row in table:
        try:
            entries.append(entry(where, header, row, folder))
        except UserError as error:
            faults.append(str(error))
    faults += repeated(entries) + in_both_splits(entries) + outside(entries)
    position = {label: n for n, label in enumerate(by_number(list({e.label for e in entries})))}
    entries.sort(key=lambda entry: position[entry.label])
    tested = [entry for entry in entries if entry.split == "validation"]
    splits = {"training": [entry.sample for entry in entries if entry.split == "train"]}
    roles = {(entry.query, entry.gallery) for entry in tested}
    if roles in (set(), {(True, True)}, {(None, None)}):
        splits["testing"] = [entry.sample for entry in tested]
    else:
        faults += [complaint(entry.path.row, "is_query and is_gallery are empty, but not so in "
                             "other rows of validation", "True or False in each")
                   for entry in tested if entry.query is None]
        splits["testing_query"] = [entry.sample for entry in tested if entry.query]
        splits["testing_gallery"] = [entry.sample for entry in tested if entry.gallery]
    if faults:
        raise Damaged(faults, splits)
    return splits


def rows(path: Path, flag: str = "--source_path", required: Sequence[str] = REQUIRED
         ) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The header, and (where it stands, cells) of each row that is not empty, counted as a
    spreadsheet does; UserError where the file is no table or lacks columns."""
    accepted = f"a CSV file with the column{'s' * (len(required) > 1)} {', '.join(required)}"
    try:
        text = os.fsdecode(path.read_bytes()).removeprefix("\ufeff")
        header, *table = csv.reader(io.StringIO(text, newline=""), strict=True) if text else [[]]
    except (OSError, csv.Error) as error:
        raise UserError(f"{flag}: cannot read {str(path)!r}: "
                        f"{getattr(error, 'strerror', None) or error}; accepted: {accepted}"
                        ) from error
    header = [name.strip() for name in header]
    missing = [name for name in required if name not in header]
    for group in (ROLES, BOX):      # all of a group or none
        missing += [name for name in group if name not in header and set(group) & set(header)]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if missing or twice:
        what = (f"has no column {', '.join(missing)}" if missing else
                f"has the column {', '.join(twice)} more than once")
        raise UserError(f"{flag}: the header of {str(path)!r} {what}: "
                        f"{','.join(header)!r}; accepted: {accepted}, and optionally "
                        f"{', '.join(ROLES)} (both), {', '.join(BOX)} (all) and category, each "
                        "once")
    return header, [(f"row {number} of {str(path)!r}", row)
                    for number, row in enumerate(table, start=2) if any(row)]


def complaint(where: str, what: str, accepted: str) -> str:
    """The line for what is wrong in a row of a dataset's table."""
    return f"--source_path: {where}: {what}; accepted: {accepted}"


def cells_of(header: list[str], row: list[str], filled: Sequence[str], place: str
             ) -> dict[str, str]:
    """{column: cell} of a row; UserError, which begins with `place`, unless the columns `filled`
    hold a text."""
    if len(row) != len(header):
        refuse(place, f"{len(row)} cells below {len(header)} columns", "a cell for each column")
    cells = dict(zip(header, map(str.strip, row), strict=True))
    for name in filled:
        if not cells[name] or "\0" in cells[name]:
            refuse(place, f"{name} {cells[name]!r}", "a text")
    return cells


def entry(where: str, header: list[str], row: list[str], folder: Path) -> Entry:
    """The entry of a `row`; UserError where a cell is wrong."""
    place = f"--source_path: {where}"
    cells = cells_of(header, row, ("path", "label"), place)
    split, roles = cells["split"], [cells.get(name, "") for name in ROLES]
    if split not in ("train", "validation"):
        refuse(place, f"split {split!r}", "train, validation")
    for name, text in zip(ROLES, roles, strict=True):
        if text.lower() not in WORDS:
            refuse(place, f"{name} {text!r}", "True, False, or nothing in rows of train")
    query, gallery = (WORDS[text.lower()] for text in roles)
    if split == "train" and (query or gallery):
        refuse(place, f"{'is_query' if query else 'is_gallery'} is True, but split is train",
               "queries and gallery in rows of validation")
    if split == "validation" and (query is None) != (gallery is None):
        empty, filled = ROLES if query is None else ROLES[::-1]
        refuse(place, f"{empty} is empty, {filled} is not",
               "True or False in both, or nothing in both")
    if split == "validation" and (query, gallery) == (False, False):
        refuse(place, "neither query nor gallery", "one of them, or both")
    path = TablePath(os.path.normpath(folder / cells["path"]), where,
                     box(cells, place), cells.get("category") or None)
    return Entry(path, cells["label"], split, query, gallery)


def box(cells: dict[str, str], place: str) -> Box | None:
    """The box of a row, None where its cells are empty or missing; UserError, which begins with
    `place`, where they hold anything else."""
    texts = [cells.get(name, "") for name in BOX]
    if EMPTY.issuperset(map(str.lower, texts)):
        return None
    given = " ".join(f"{name}={text}" for name, text in zip(BOX, texts, strict=True))
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [math.nan]
    if not all(number.is_integer() for number in numbers):
        refuse(place, f"the box {given}", "four whole numbers, or four empty cells")
    left, top, right, bottom = map(int, numbers)
    if not (0 <= left < right and 0 <= top < bottom):
        refuse(place, f"the box {given}", "x_1 < x_2 and y_1 < y_2, from 0")
    return left, top, right, bottom


def repeated(entries: list[Entry]) -> list[str]:
    """A line for each row whose path stands in an earlier one. Such an image would be its own
    neighbour, or be tested on after it was trained on."""
    paths = [entry.path for entry in entries]
    first = {path: path.row for path in reversed(paths)}    # the earliest row is kept
    return [complaint(path.row, f"{path!r} stands in {first[path]}, too", "each path once")
            for path in paths if path.row != first[path]]


def in_both_splits(entries: list[Entry]) -> list[str]:
    """A line for each label that is trained and tested on, unless that holds for every label.

    That library's tables of CUB and CARS divide the images of all classes; so the evaluation is
    about known classes, which is printed.
    """
    first: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
    for entry in entries:
        first[entry.split].setdefault(entry.label, entry.path.row)
    train, validation = first["train"], first["validation"]
    if train and train.keys() == validation.keys():
        print(f"--source_path: each of the {len(train):,} labels stands in train and in "
              "validation: the test is on known classes.", flush=True)
        return []
    return [complaint(row, f"the label {label!r} is in validation, and in train by {train[label]}",
                      "each label in one split, or all labels in both")
            for label, row in validation.items() if label in train]


def outside(entries: list[Entry]) -> list[str]:
    """A line for each row whose box exceeds its image. Files that cannot be read are refused, or
    left out, later."""
    boxed = [entry.path for entry in entries if entry.path.box]
    if not boxed:
        return []
    sizes = in_parallel(stored_size, boxed, available_cores(), "Measuring images")
    faults = []
    for path, size in zip(boxed, sizes, strict=True):
        _, _, right, bottom = path.box
        if size and (right > size[0] or bottom > size[1]):
            faults.append(complaint(
                path.row, f"the box ends at x_2={right} y_2={bottom}, but {path!r} has {size[0]} x "
                f"{size[1]} pixels", f"x_2 up to {size[0]} and y_2 up to {size[1]}"))
    return faults
