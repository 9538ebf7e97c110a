"""`--check_data`: is the dataset on this disk whole, and is it the published one?"""

from __future__ import annotations

from datasets import PUBLISHED, splits
from datasets.images import available_cores, broken


def check_data(name: str, opt) -> bool:
    """See `datasets.check_data`."""
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
    faults = broken(paths, min(opt.kernels, available_cores()))
    for path, fault in faults:
        print(f"  cannot read {path!r}: {fault}")
    print(f"  {len(paths) - len(faults):,} of {len(paths):,} images can be read")
    return whole and not faults
