"""Stanford Online Products (Song et al. 2016, arXiv 1511.06452).

`Info_Files/Ebay_train.txt` and `Ebay_test.txt` list what trains and what tests, in columns
`image_id class_id super_class_id path`, paths relative to `images/`. Download:
cvgl.stanford.edu/projects/lifted_struct.
"""

from __future__ import annotations

from pathlib import Path

from datasets.class_folders import require
from datasets.tables import by_class, existing, rows

LAYOUT = "images/<super class>_final/<files> beside Info_Files/Ebay_train.txt and Ebay_test.txt"
LISTS = {"training": "Ebay_train.txt", "testing": "Ebay_test.txt"}


def read(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{"training", "testing"}: (path, class id) of each image, by ascending class id."""
    require(folder / "images", folder, LAYOUT)
    splits = {}
    for split, name in LISTS.items():
        require(folder / "Info_Files" / name, folder, LAYOUT)
        table = rows(folder / "Info_Files" / name, header=1, columns=4, path_column=3)
        samples = [(str(folder / "images" / path), class_id) for _, class_id, _, path in table]
        splits[split] = by_class(existing(samples), order=int)
    return splits
