"""Stanford Online Products (Song et al. 2016, arXiv 1511.06452).

`Info_Files/Ebay_train.txt` and `Ebay_test.txt` list the training and test images in columns
`image_id class_id super_class_id path`, with paths relative to `images/`. Download:
cvgl.stanford.edu/projects/lifted_struct.
"""

from pathlib import Path

from datasets import Damaged, Samples
from datasets.class_folders import require
from datasets.tables import repeated, rows
from utilities.errors import UserError

LAYOUT = "images/<super class>_final/<files> beside Info_Files/Ebay_train.txt and Ebay_test.txt"
COLUMNS = "image_id class_id super_class_id path"
LISTS = {"training": "Ebay_train.txt", "testing": "Ebay_test.txt"}


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing"}: (path, class id) of each image, by ascending class id."""
    require(folder / "images", folder, LAYOUT)
    splits, listed = {}, []
    for split, name in LISTS.items():
        require(folder / "Info_Files" / name, folder, LAYOUT)
        table, samples = rows(folder / "Info_Files" / name, COLUMNS, path_column=3), []
        listed += table
        for where, (_, class_id, _, path) in table:
            if not class_id.isdecimal():
                raise UserError(f"--source_path: class_id {class_id!r} in {where}; expected: a "
                                "whole number")
            samples.append((str(folder / "images" / path), class_id))
        splits[split] = sorted(samples, key=lambda sample: int(sample[1]))
    if faults := repeated(listed, path_column=3):
        raise Damaged(faults, splits)
    return splits
