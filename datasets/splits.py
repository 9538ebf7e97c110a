"""From the samples that a layout lists to the splits that `datasets.select` returns."""

import importlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

import architectures
import criteria
import datasets
from datasets import cache, csv_table, images, transforms
from datasets.dataset import Dataset, Transforms
from datasets.device_cache import DeviceCache
from utilities.environment import available_cores
from utilities.errors import UserError, refuse
from utilities.files import fault, is_file

Samples = list[tuple[str, str]]  # (path, class name)


def build(name: str, opt) -> dict[str, Dataset]:
    """See `datasets.select`."""
    listed = read_whole(name, opt)
    samples = listed = hold_out(listed, opt)
    if opt.skip_broken_images:      # last, so that no other image changes its split
        samples = leave_out_broken(listed, min(opt.kernels, available_cores()))
    flag, value = datasets.held_out_by(opt)
    refuse_empty(samples, Path(opt.source_path) / name, flag, value)
    n_training = len(samples["training"])
    if n_training < opt.bs and not opt.evaluate_only:
        refuse("--bs", f"{opt.bs} is more than the {n_training:,} training images of --dataset "
               f"{name}", f"at most {n_training}")
    n_classes = len({label for _, label in samples["training"]})
    fewest = criteria.fewest_classes(opt)
    if n_classes < fewest and not opt.evaluate_only:
        refuse("--dataset", f"{name!r} has {n_classes} training class{'es' * (n_classes > 1)} with "
               f"{flag} {value:g}, but --diva_features "
               f"{' '.join(opt.diva_features)} learns what tells {fewest} classes apart",
               f"at least {fewest} training classes, or features that need no labels")
    if fewest and n_classes == n_training and opt.loss in criteria.TAKES:
        print("No training class has two images: every positive is the anchor's own picture.",
              flush=True)
    # What loaders read: query and gallery, but not their union.
    read_by_loaders = [path for split, part in samples.items() for path, _ in part
                       if f"{split}_query" not in samples
                       and (split != "training" or not opt.evaluate_only or opt.train_metrics)]
    common = reading(opt, read_by_loaders)
    unaugmented = evaluation_transforms(opt, common["inputs"])
    splits = unaugmented_splits(name, samples, listed, unaugmented, common)
    training = splits["training"]
    if opt.cache == "gpu":
        common["device_cache"] = DeviceCache(training.paths, opt.crop_size,
                                             common["inputs"].interpolation)
    views = training_transforms(opt, common["inputs"])
    for split, chosen in (("training", views), ("evaluation", unaugmented),
                          ("evaluation_train", Transforms(views.main))):
        splits[split] = Dataset(name, training.paths, training.labels, training.class_names,
                                chosen, listed=training.listed, **common)
    return splits


def build_whole(name: str, opt) -> dict[str, Dataset]:
    """See `datasets.select_all`."""
    samples = listed = together(read_whole(name, opt))
    if opt.skip_broken_images:
        samples = leave_out_broken(listed, min(opt.kernels, available_cores()))
    refuse_empty(samples, Path(opt.source_path) / name)
    common = reading(opt, [path for path, _ in samples["all"]])
    unaugmented = evaluation_transforms(opt, common["inputs"])
    return unaugmented_splits(name, samples, listed, unaugmented, common)


def together(listed: dict[str, Samples]) -> dict[str, Samples]:
    """One split of all images, "all"; where there are queries, all_query and all_gallery, too: what
    has no such part is in both."""
    whole = [split for split in listed if not split.endswith(("_query", "_gallery"))]
    parts = {"all": list(dict.fromkeys(chain.from_iterable(listed.values())))}
    if "testing_query" in listed:
        others = list(chain.from_iterable(listed[split] for split in whole))
        parts |= {f"all_{part}": [*others, *listed[f"testing_{part}"]]
                  for part in ("query", "gallery")}
    return parts


def reading(opt, paths: list[str]) -> dict:
    """How datasets read their images; `paths` are those that loaders will read."""
    open_image = images.decode
    if opt.cache == "ram":
        open_image = cache.in_memory(paths, available_cores()).open_image
    return {"inputs": architectures.inputs(opt.arch), "seed": opt.seed, "open_image": open_image}


def unaugmented_splits(name: str, samples: dict[str, Samples], listed: dict[str, Samples],
                       transform: Transforms, common: dict) -> dict[str, Dataset]:
    """A dataset of each split of `samples`, which `listed` has before images were left out."""
    as_listed = numbered(listed)
    return {split: Dataset(name, paths, labels, classes, transform, listed=as_listed[split][:2],
                           **common)
            for split, (paths, labels, classes) in numbered(samples).items()}


def read_whole(name: str, opt) -> dict[str, Samples]:
    """What `read` gives; UserError for missing files, unless broken ones are to be left out."""
    listed = read(name, opt.source_path)
    if not opt.skip_broken_images:
        refuse_missing(list({path: None for part in listed.values() for path, _ in part}))
    return listed


def read(name: str, source_path: str) -> dict[str, Samples]:
    """The samples of each split as they are on disk, by the module that knows the layout."""
    if name in ("", ".", "..") or Path(name).name != name:
        refuse("--dataset", f"{name!r} is no folder's name",
               f"{', '.join(datasets.DATASETS)}, or a folder below --source_path")
    folder = Path(source_path) / name
    return importlib.import_module(layout(name, folder)).read(folder)


def layout(name: str, folder: Path) -> str:
    """The module that reads what lies in `folder`."""
    module = datasets.DATASETS.get(name, "datasets.class_folders")
    if name in datasets.LISTED:
        return module
    if os.path.lexists(folder / csv_table.TABLE):
        return "datasets.csv_table"
    if name not in datasets.RENDERED and fault(folder / "images") and not fault(folder / "train"):
        return "datasets.split_folders"
    return module


def refuse_missing(paths: list[str]) -> None:
    """UserError where files are missing or cannot be reached. Folders are listed once, which is
    faster than a look-up of each of 120,000 files; whether a file can be read shows when it is
    read."""
    listed = {folder: listing(folder) for folder in {os.path.dirname(path) for path in paths}}
    missing = [(path, wrong) for path in paths
               if os.path.basename(path) not in listed[os.path.dirname(path)]
               and (wrong := fault(path, "file"))]
    if missing:
        path, wrong = missing[0]
        raise UserError(f"--source_path: {len(missing):,} of {len(paths):,} listed images are "
                        f"missing, the first is {images.named(path)}, which {wrong}; "
                        f"{images.REMEDY}")


def listing(folder: str) -> set[str]:
    """The names of the files in `folder`, and of links to files; none where it cannot be listed or
    its files cannot be reached. Only links are looked up one by one."""
    try:
        if not os.access(folder, os.X_OK):      # without it names are listed and nothing is opened
            return set()
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_file(entry)}
    except OSError:
        return set()


def leave_out_broken(samples: dict[str, Samples], threads: int) -> dict[str, Samples]:
    """`samples` without files that cannot be read, which are printed and counted."""
    paths = list({path: None for part in samples.values() for path, _ in part})
    faults = {path: finding.fault for path, finding in
              zip(paths, images.examine(paths, threads), strict=True) if finding.fault}
    for path, reason in faults.items():
        print(f"--skip_broken_images: left out {path!r}: {reason}")
    kept = {split: [sample for sample in part if sample[0] not in faults]
            for split, part in samples.items()}
    for split, part in samples.items():
        n_kept, n = (len({label for _, label in samples}) for samples in (kept[split], part))
        print(f"--skip_broken_images: {split} keeps {len(kept[split]):,} of {len(part):,} images, "
              f"{n_kept:,} of {n:,} classes", flush=True)
    return kept


def refuse_empty(samples: dict[str, Samples], folder: Path, flag: str = "--train_val_split",
                 value: float = 1) -> None:
    """UserError, naming the first split without images, if there is one. flag, value: see
    `datasets.held_out_by`."""
    for split, part in samples.items():
        if part:
            continue
        if split.startswith("validation") and value != 1:
            which = " (every second image of a held-out class)" * split.endswith("_query")
            refuse(flag, f"{value:g} leaves nothing for {split}{which}", {
                "--train_val_split": "1 for no validation split, or a smaller share, or a share of "
                "the classes by --train_val_split_by_class",
                "--val_folds": "fewer folds, or another --val_fold"}[flag])
        raise UserError(f"--dataset: no image in the {split} split of {str(folder)!r}; at least 1 "
                        "is needed")


def evaluation_transforms(opt, inputs: architectures.Inputs) -> Transforms:
    """The transform of the one view without augmentation."""
    return Transforms(transforms.evaluation_transform(opt.crop_size, opt.resize,
                                                      inputs.interpolation))


def training_transforms(opt, inputs: architectures.Inputs) -> Transforms:
    """The transforms of the views that the trained features need."""
    main = "realistic" if opt.realistic_main_augmentation else opt.augmentation
    second = "realistic" if opt.realistic_augmentation else opt.augmentation
    geometry, wanted = (opt.crop_size, opt.resize, inputs.interpolation), opt.diva_features
    return Transforms(
        transforms.training_transform(main, *geometry),
        transforms.training_transform(second, *geometry)
        if criteria.needs(wanted, "second view") else None,
        transforms.rotated_transform(*geometry) if criteria.needs(wanted, "rotated view") else None)


def numbered(samples: dict[str, Samples]) -> dict[str, tuple[list[str], np.ndarray, list[str]]]:
    """The paths, the labels and the class names of each split."""
    splits = {}
    for split, classes in class_names(samples).items():
        numbers = {label: number for number, label in enumerate(classes)}
        labels = np.array([numbers[label] for _, label in samples[split]], np.int64)
        splits[split] = [path for path, _ in samples[split]], labels, classes
    return splits


def class_names(samples: dict[str, Samples]) -> dict[str, list[str]]:
    """The classes of each split in order of appearance, the same for query and gallery."""
    names = {split: list(dict.fromkeys(label for _, label in part))
             for split, part in samples.items()}
    for whole in ("testing", "validation", "all"):
        for part in (f"{whole}_query", f"{whole}_gallery"):
            if part in names:
                names[part] = names[whole]
    return names


def hold_out(samples: dict[str, Samples], opt) -> dict[str, Samples]:
    """Moves the training images that the options hold out into a validation split, and prints the
    share of the images that stays."""
    samples, n_images = dict(samples), len(samples["training"])
    in_shop = "testing_query" in samples
    flag, value = datasets.held_out_by(opt)
    if value != 1:
        if "validation" in samples:
            refuse(flag, f"{value:g} given, but the dataset has a folder 'val' of images that "
                   "validate", f"no {flag}, or the folder without 'val'")
        by_label = {}
        for sample in samples["training"]:
            by_label.setdefault(sample[1], []).append(sample)
        training, held_out = cut(list(by_label.values()), opt, in_shop)
        samples["training"] = list(chain.from_iterable(training))
        if in_shop:
            for part, start in (("query", 1), ("gallery", 0)):
                samples[f"validation_{part}"] = [x for group in held_out for x in group[start::2]]
        else:
            samples["validation"] = list(chain.from_iterable(held_out))
        n_training = len(samples["training"])
        fold = "" if opt.val_fold is None else f" --val_fold {opt.val_fold}"
        print(f"{flag} {value:g}{fold}: {n_training:,} of {n_images:,} training images stay, "
              f"a share of {n_training / max(1, n_images):.3f}", flush=True)
    for whole in ("testing", "validation"):
        if f"{whole}_query" in samples:
            both = samples[f"{whole}_query"] + samples[f"{whole}_gallery"]
            samples[whole] = sorted(dict.fromkeys(both), key=lambda sample: sample[1])
    return samples


def cut(groups: list[Samples], opt, in_shop: bool) -> tuple[list[Samples], list[Samples]]:
    """The samples of each class -> groups that train, groups that validate. UserError where there
    are more folds than classes."""
    n, share = len(groups), opt.train_val_split
    if opt.val_folds is not None:
        if n < opt.val_folds:
            refuse("--val_folds", f"{opt.val_folds} given, but the dataset has {n} training "
                   f"class{'es' * (n != 1)}", "at most one fold for each")
        block = np.array_split(range(n), opt.val_folds)[opt.val_fold]
        start, stop = block[0], block[-1] + 1
        return groups[:start] + groups[stop:], groups[start:stop]
    if opt.train_val_split_by_class or in_shop:
        return divide(groups, max(1, round(share * n)))
    divided = [divide(group, len(group) - n_held_out(len(group), share)) for group in groups]
    return [kept for kept, _ in divided], [rest for _, rest in divided]


def n_held_out(n: int, share: float) -> int:
    """How many of a class's n images validate. A single one would be a query with nothing to find:
    instead of it two go where at least two then stay in training, otherwise none. One image always
    stays in training."""
    held_out = min(round((1 - share) * n), n - 1)
    if held_out == 1:
        return 2 if n >= 4 else 0
    return held_out


def divide(items: Sequence, k: int) -> tuple[list, list]:
    """k of the items, as evenly spaced as possible; the others."""
    n = len(items)
    kept = {(2 * i + 1) * n // (2 * k) for i in range(k)}
    return ([item for i, item in enumerate(items) if i in kept],
            [item for i, item in enumerate(items) if i not in kept])
