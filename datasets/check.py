"""`--check_data`: is the dataset on this disk whole, and is it the published one?"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

from datasets import PUBLISHED, Damaged, splits
from datasets.class_folders import visible
from datasets.images import Finding, examine, in_parallel
from utilities.environment import available_cores
from utilities.files import fault
from utilities.terminal import check_output

SHOWN = 10  # names


class Remark(NamedTuple):
    """What is told of images that can be read, in words for one image and for more."""

    one: str
    more: str
    what: str
    concerns: Callable[[Finding], bool]
    named: bool = True      # whether the images are named


REMARKS = (
    Remark("is", "are", "turned by the EXIF tag", lambda finding: finding.turned, named=False),
    Remark("is", "are", "transparent and laid on white", lambda finding: finding.on_white,
           named=False),
    Remark("shows", "show", "one grey level or colour alone", lambda finding: finding.levels == 0),
    Remark("uses", "use", "a tenth of the grey levels or less, as 12 bits in files of 16 do",
           lambda finding: 0 < finding.levels <= 255 / 10),
    Remark("has", "have", "levels that are cut off, since white is 65,535 in the mode I and 255 "
           "(or 1, if none is above) in the mode F", lambda finding: finding.clipped),
)


def check_data(name: str, opt) -> bool:
    """Reads every image of the dataset and prints a report; True when nothing is wrong."""
    print(f"{name} in {opt.source_path}")
    whole, published = True, PUBLISHED.get(name, {})
    try:
        samples = splits.read(name, opt.source_path)
    except Damaged as damaged:
        samples, whole = damaged.samples, False
        for line in damaged.faults:
            print(f"  {line}")
    for split, part in samples.items():
        counts = len(part), len({label for _, label in part})
        line = (f"  {split}: {counts[0]:,} {one_or_more(counts[0], 'image', 'images')}, "
                f"{counts[1]:,} {one_or_more(counts[1], 'class', 'classes')}")
        if split in published:
            agrees = counts == published[split]
            whole &= agrees
            line += (", as published" if agrees else
                     ", published are {:,} and {:,}".format(*published[split]))
        print(line)
    split_of = {path: split for split, part in samples.items() for path, _ in part}
    paths, threads = list(split_of), min(opt.kernels, available_cores())
    findings = dict(zip(paths, examine(paths, threads), strict=True))
    readable = {path: finding for path, finding in findings.items() if not finding.fault}
    for path, finding in findings.items():
        if finding.fault:
            print(f"  cannot read {path!r}: {finding.fault}")
    print(f"  {len(readable):,} of {len(paths):,} images can be read")
    for remark in REMARKS:
        names = [repr(path) for path, finding in readable.items() if remark.concerns(finding)]
        if names:
            print(f"  {len(names):,} of them {one_or_more(len(names), remark.one, remark.more)} "
                  f"{remark.what}" + f": {some(names)}" * remark.named)
    report_identical(identical(list(readable), threads), split_of)
    if others := beside(paths):
        what = one_or_more(len(others), "entry beside them does not count as an image",
                           "entries beside them do not count as images")
        print(f"  {len(others):,} {what}: " + some(list(map(repr, others))))
    check_output()
    return whole and len(readable) == len(paths)


def identical(paths: list[str], threads: int) -> list[list[str]]:
    """Groups of files that hold the same bytes. Only files of equal size are read."""
    same_size = grouped(paths, os.path.getsize, threads, "Comparing sizes")
    candidates = [path for group in same_size for path in group]
    return grouped(candidates, digest, threads, "Comparing bytes")


def grouped(paths: list[str], key: Callable[[str], Hashable], threads: int, title: str
            ) -> list[list[str]]:
    """The paths that share their `key` with others, in groups."""
    groups = defaultdict(list)
    for path, value in zip(paths, in_parallel(key, paths, threads, title), strict=True):
        groups[value].append(path)
    return [group for group in groups.values() if group[1:]]


def digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def report_identical(groups: list[list[str]], split_of: dict[str, str]) -> None:
    """Prints how many files are concerned, and the first groups; those across splits lead."""
    def is_across(group: list[str]) -> bool:
        return len({split_of[path] for path in group}) > 1

    groups = sorted(groups, key=is_across, reverse=True)
    if groups:
        n, n_across = (sum(map(len, part)) for part in (groups, filter(is_across, groups)))
        across = f", {n_across:,} of them as one in another split" if n_across else ""
        print(f"  {n:,} files hold the same bytes as another{across}:")
    for group in groups[:SHOWN]:
        print("    " + some([f"{path!r} ({split_of[path]})" for path in group]))
    if groups[SHOWN:]:
        print("    ...")


def one_or_more(n: int, one: str, more: str) -> str:
    """The wording for `n` things."""
    return one if n == 1 else more


def some(names: list[str]) -> str:
    """The first of `names`."""
    return ", ".join(names[:SHOWN]) + (", ..." if names[SHOWN:] else "")


def beside(paths: list[str]) -> list[str]:
    """What lies in the images' folders and is not in `paths`, without hidden files and folders of
    further images."""
    known = set(paths)
    folders = {folder for folder in map(os.path.dirname, paths) if not fault(folder)}
    return [entry.path for folder in sorted(folders)
            for entry in sorted(visible(Path(folder)), key=lambda entry: entry.name)
            if entry.path not in known and entry.path not in folders]
