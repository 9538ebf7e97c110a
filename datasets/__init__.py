"""Datasets: files on disk -> samples and splits.

`DATASETS` names those whose layout or split is known; any other name is a folder in the layout of
CUB200-2011, `<source_path>/<name>/images/<class>/<files>`. A module in the table has a function
`read(folder)` that returns {split: [(path, class name)]}, class by class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from utilities.errors import UserError, refuse

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

    def __init__(self, faults: list[str], samples: dict[str, list[tuple[str, str]]]):
        more = f" (faults in all: {len(faults):,}, see --check_data)" if faults[1:] else ""
        super().__init__(faults[0] + more)
        self.faults, self.samples = faults, samples


class Identity:
    """Which images a run's `splits` list, saved with the run. A resumed run needs the same list:
    with another, epochs could not be compared. Broken ones may be left out from then on, except the
    last of a training class, since losses number the classes."""

    def __init__(self, splits: dict[str, Dataset]):
        self.splits = {name: split for name, split in splits.items()
                       if not name.startswith("training_")}     # which repeat the training images

    def state_dict(self) -> dict[str, list]:
        return {name: [len(split.listed[0]), split.digest, split.n_classes]
                for name, split in self.splits.items()}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """UserError where the images are not those of `state`."""
        for name, (n_images, digest, *n_classes) in state.items():      # older ones lack classes
            split = self.splits[name]
            if split.digest != digest:
                refuse("--source_path", f"the {name} images are not those that the run began with: "
                       f"{n_images:,} then, {len(split.listed[0]):,} now, or other names",
                       "the same files")
            if name == "training" and n_classes not in ([], [split.n_classes]):
                refuse("--skip_broken_images", f"leaves images of {split.n_classes:,} of the run's "
                       f"{n_classes[0]:,} training classes", "an image of each that can be read")


def select(name: str, opt) -> dict[str, Dataset]:
    """The splits of the dataset called `name`.

    training; testing; validation with `--train_val_split` below 1; the training images once more
    as training_unaugmented (the test transform) and training_main_view (the main view alone).
    in-shop also has testing_query and testing_gallery, the parts of testing, and likewise for
    validation. UserError for a missing folder, an empty class or split, or too few training images
    for a batch, unless `--evaluate_only` is given.
    """
    from datasets import splits

    return splits.build(name, opt)
