"""Datasets: files on disk -> samples and splits.

`DATASETS` names those whose layout or split is known; any other name is a folder in the layout of
CUB200-2011, `<source_path>/<name>/images/<class>/<files>`, or is divided by folders `train`, `val`
and `test`. A `table.csv` in the folder wins over these. A module in the table has a function
`read(folder)` that returns {split: [(path, class name)]}, class by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from utilities.errors import UserError, refuse
from utilities.options import first

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.dataset import Dataset

DATASETS = {
    "cub200": "datasets.class_folders",
    "cars196": "datasets.cars196",
    "online_products": "datasets.online_products",
    "in-shop": "datasets.in_shop",
    "glyphs": "datasets.glyphs",
}
LISTED = {"online_products", "in-shop"}     # divided by their own lists, whatever else is there
RENDERED = {"glyphs"}                       # made where it is missing
# Training and test images and classes; in-shop's test images are queries and gallery.
PUBLISHED = {
    "cub200": {"training": (5864, 100), "testing": (5924, 100)},
    "cars196": {"training": (8054, 98), "testing": (8131, 98)},
    "online_products": {"training": (59551, 11318), "testing": (60502, 11316)},
    "in-shop": {"training": (25882, 3997), "testing_query": (14218, 3985),
                "testing_gallery": (12612, 3985)},
}
# Metrics that papers report on it, where they are not the usual ones.
METRICS = {
    "online_products": ("e_recall@1", "e_recall@10", "e_recall@100", "nmi", "f1", "mAP"),
    "in-shop": ("e_recall@1", "e_recall@10", "e_recall@20", "e_recall@30", "e_recall@50", "nmi",
                "f1", "mAP_c"),
}
# Weights with which DiVA's four heads were combined on it, where they are not the usual ones.
HEAD_WEIGHTS = {
    "cars196": ("0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5", "0.5-2-2-2"),
    "online_products": ("1-1-1-1", "0.5-1-1-1", "1-0.5-0.5-0.5", "1.5-1-1-1"),
}


Samples = list[tuple[str, str]]     # (path, class name) of each image


class Batch(NamedTuple):
    """One item of a dataset or, with a first dimension B, a batch of a loader.

    labels and indices (B,) int64. rotations (B,) int64: quarter turns of the rotated view. images
    and the further views (B, 3, H, W): uint8 from a dataset, float32 from a loader. A view that no
    feature needs is None.
    """

    labels: Tensor
    images: Tensor
    indices: Tensor
    second_views: Tensor | None = None
    rotations: Tensor | None = None
    rotated_views: Tensor | None = None


class Damaged(UserError):
    """A dataset with `faults`, a line each. `samples`: what can be listed in spite of them, for
    `--check_data`, which shows all faults in one report."""

    def __init__(self, faults: list[str], samples: dict[str, Samples]):
        more = f" (faults in all: {len(faults):,}, see --check_data)" if faults[1:] else ""
        super().__init__(faults[0] + more)
        self.faults, self.samples = faults, samples


Classes = Mapping[str, Sequence[str]]       # {a dataset's name: names of some of its classes}
NOBODY_KNOWS = ("The checkpoint does not name the classes that it was trained on: nothing can tell "
                "whether the evaluated ones are among them.")


class Identity:
    """Which images a run's `splits` list and which classes its network was trained on, saved in
    every checkpoint.

    A resumed run needs the same list: with another, epochs could not be compared. Broken images may
    be left out from then on, except the last of a training class, since losses number the classes.
    Whoever evaluates the network, or trains it on, needs `trained_on`: the training classes and
    those of the weights that the run starts from.
    """

    def __init__(self, splits: dict[str, Dataset], trained_on: Classes | None):
        """trained_on: of the weights that the run starts from; see `check_unseen`."""
        check_unseen(splits, trained_on)
        self.splits = {name: split for name, split in splits.items()
                       if not name.startswith("evaluation")}    # which repeat the training images
        training = splits["training"]
        self.trained_on = union(trained_on or {}, {training.name: training.class_names})

    def state_dict(self) -> dict[str, Any]:
        images = {name: [len(split.listed[0]), split.digest, split.n_classes]
                  for name, split in self.splits.items()}
        return images | {"trained_on": self.trained_on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """UserError where the images are not those of `state`."""
        for name, split in self.splits.items():
            n_images, digest, *n_classes = state[name]      # older ones lack classes
            if split.digest != digest:
                refuse("--source_path", f"the {name} images are not those that the run began with: "
                       f"{n_images:,} then, {len(split.listed[0]):,} now, or other names",
                       "the same files")
            if name == "training" and n_classes not in ([], [split.n_classes]):
                refuse("--skip_broken_images", f"leaves images of {split.n_classes:,} of the run's "
                       f"{n_classes[0]:,} training classes", "an image of each that can be read")
        # A checkpoint of an earlier version has no names; its run began from no other run's.
        self.trained_on = union(state.get("trained_on", {}), self.trained_on)


def union(one: Classes, other: Classes) -> dict[str, list[str]]:
    """The classes of both, each once."""
    return {name: list(dict.fromkeys([*one.get(name, ()), *other.get(name, ())]))
            for name in one | other}


def seen(split: Dataset, trained_on: Classes) -> list[str]:
    """The classes of `split` that are among those that a network was trained on."""
    names = set(trained_on.get(split.name, ()))
    return [name for name in split.class_names if name in names]


def check_unseen(splits: dict[str, Dataset], trained_on: Classes | None) -> None:
    """UserError where a network that was trained on the classes `trained_on` would be evaluated on
    one of them. Those that `splits` itself has in training, too, do not count: a validation split
    may share its classes. Where trained_on is None, it is printed that nobody can tell."""
    if trained_on is None:
        print(NOBODY_KNOWS, flush=True)
        return
    training = set(splits["training"].class_names)
    for kind in ("validation", "testing"):
        if kind not in splits:
            continue
        split = splits[kind]
        if known := [name for name in seen(split, trained_on) if name not in training]:
            refuse("--dataset", f"the network was trained on {len(known):,} of the "
                   f"{split.n_classes:,} {kind} classes of {split.name!r}: {first(known)}",
                   "classes divided as they were when it was trained, or other images under "
                   "another name")


def held_out_by(opt) -> tuple[str, float]:
    """The flag by which a part of the training images is held out to validate, and its value:
    ("--train_val_split", 1) where none is."""
    if opt.val_folds is not None:
        return "--val_folds", opt.val_folds
    return "--train_val_split", opt.train_val_split


def select(name: str, opt) -> dict[str, Dataset]:
    """The splits of the dataset called `name`.

    training; testing; validation with `--train_val_split` below 1 or `--val_folds`; the training
    images once more as evaluation (the test transform) and evaluation_train (the main view alone).
    in-shop and tables with queries also have testing_query and testing_gallery, the parts of
    testing, and likewise for validation. UserError for a missing folder, an empty class or split,
    or too few training images for a batch, unless `--evaluate_only` is given.
    """
    from datasets import splits

    return splits.build(name, opt)


def select_all(name: str, opt) -> dict[str, Dataset]:
    """Every image of the dataset called `name` as one split, "all", for `--all_classes`.

    Where the test images are queries and gallery, there are all_query and all_gallery, too, and
    images that are neither, those of training, are in both. UserError as in `select`.
    """
    from datasets import splits

    return splits.build_whole(name, opt)
