"""Folders that divide the images: `{train,val,test}/<class>/<files>`.

`test` is the test split, or `val` where there is no `test`. With both, `val` is the validation
split, on which checkpoints are chosen. A class may stand in several of them.
"""

from pathlib import Path

from datasets import Samples
from datasets.class_folders import by_number, classes, members, require
from utilities.errors import UserError
from utilities.files import fault
from utilities.options import first

LAYOUT = "{train,val,test}/<class>/<image files>"


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "validation" if there is one, "testing"}: (path, class) of each image. Damaged
    for class folders that are empty or cannot be listed."""
    require(folder / "train", folder, LAYOUT)
    there = [name for name in ("val", "test") if not fault(folder / name)]
    if not there:
        raise UserError(f"--dataset: {str(folder)!r} has a folder 'train', but neither 'test' nor "
                        f"'val'; accepted: {LAYOUT}")
    held_out = {"validation": "val", "testing": "test"} if there[1:] else {"testing": there[0]}
    folders, faults = {}, []
    for split, name in {"training": "train", **held_out}.items():
        names, broken_links = classes(folder / name, by_number)
        if not names:
            raise UserError(f"--dataset: no class folder in {str(folder / name)!r}; accepted: "
                            f"{LAYOUT}")
        folders[split] = [folder / name / label for label in names]
        faults += broken_links
    training = {path.name for path in folders["training"]}
    for split, name in held_out.items():
        both = [path.name for path in folders[split] if path.name in training]
        if both:
            print(f"--source_path: of the {len(folders[split]):,} classes in {name!r} "
                  f"{len(both):,} stand in 'train', too, and are no unseen ones: {first(both)}",
                  flush=True)
    return members(folders, faults)
