"""`--check_data`: is the dataset on this disk whole, and is it the published one?"""

from __future__ import annotations

import os
from pathlib import Path

from datasets import PUBLISHED, splits
from datasets.class_folders import visible
from datasets.images import examine
from utilities.environment import available_cores
from utilities.terminal import check_output

SHOWN = 10  # names


def check_data(name: str, opt) -> bool:
    """Reads every image of the dataset and prints a report; True when nothing is wrong."""
    samples = splits.read(name, opt.source_path)
    published = PUBLISHED.get(name, {})
    whole = True
    print(f"{name} in {opt.source_path}")
    for split, part in samples.items():
        counts = len(part), len({label for _, label in part})
        line = f"  {split}: {counts[0]:,} images, {counts[1]:,} classes"
        if split in published:
            agrees = counts == published[split]
            whole &= agrees
            line += (", as published" if agrees else
                     ", published are {:,} and {:,}".format(*published[split]))
        print(line)
    paths = [path for part in samples.values() for path, _ in part]
    findings = examine(paths, min(opt.kernels, available_cores()))
    faults = [(path, finding.fault) for path, finding in zip(paths, findings, strict=True)
              if finding.fault]
    for path, fault in faults:
        print(f"  cannot read {path!r}: {fault}")
    print(f"  {len(paths) - len(faults):,} of {len(paths):,} images can be read")
    for count, what in ((sum(finding.turned for finding in findings), "turned by the EXIF tag"),
                        (sum(finding.on_white for finding in findings),
                         "transparent and laid on white")):
        if count:
            print(f"  {count:,} of them are {what}")
    if others := beside(paths):
        print(f"  {len(others):,} entries beside them do not count as images: "
              + ", ".join(map(repr, others[:SHOWN])) + (", ..." if others[SHOWN:] else ""))
    check_output()
    return whole and not faults


def beside(paths: list[str]) -> list[str]:
    """What lies in the images' folders and is not in `paths`, without hidden files and folders of
    further images."""
    folders, known = {os.path.dirname(path) for path in paths}, set(paths)
    return [entry.path for folder in sorted(folders)
            for entry in sorted(visible(Path(folder)), key=lambda entry: entry.name)
            if entry.path not in known and entry.path not in folders]
