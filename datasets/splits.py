"""From the samples that a layout lists to the splits that `datasets.select` returns."""

import importlib
import os
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

import architectures
import criteria
import datasets
from datasets import Samples, cache, csv_table, images, transforms
from datasets.dataset import Dataset, Transforms
from datasets.device_cache import DeviceCache
from datasets.validation import hold_out
from utilities.environment import available_cores
from utilities.errors import UserError, refuse
from utilities.files import fault, is_file


def build(name: str, opt) -> dict[str, Dataset]:
    """See `datasets.select`."""
    listed = with_unions(hold_out(read_whole(name, opt), opt))
    samples = leave_out_broken(listed, opt)     # last, so that no other image changes its split
    refuse_empty(samples, name, opt)
    check_training(samples["training"], name, opt)
    # What loaders read: query and gallery, but not their union.
    read_by_loaders = [path for split, part in samples.items() for path, _ in part
                       if f"{split}_query" not in samples
                       and (split != "training" or not opt.evaluate_only or opt.train_metrics)]
    splits = unaugmented(name, samples, listed, opt, read_by_loaders)
    training = splits["training"]
    if opt.cache == "gpu":
        training.device_cache = DeviceCache(training.paths, opt.crop_size,
                                            training.inputs.interpolation)
    views = training_transforms(opt, training.inputs)
    return splits | {"training": replace(training, transforms=views), "evaluation": training,
                     "evaluation_train": replace(training, transforms=Transforms(views.main))}


def build_whole(name: str, opt) -> dict[str, Dataset]:
    """See `datasets.select_all`."""
    listed = together(read_whole(name, opt))
    samples = leave_out_broken(listed, opt)
    refuse_empty(samples, name, opt)
    return unaugmented(name, samples, listed, opt, [path for path, _ in samples["all"]])


def with_unions(samples: dict[str, Samples]) -> dict[str, Samples]:
    """Adds testing and validation, class by class, where they stand as query and gallery."""
    unions = {}
    for whole in ("testing", "validation"):
        if f"{whole}_query" in samples:
            both = samples[f"{whole}_query"] + samples[f"{whole}_gallery"]
            unions[whole] = sorted(dict.fromkeys(both), key=lambda sample: sample[1])
    return samples | unions


def together(listed: dict[str, Samples]) -> dict[str, Samples]:
    """All images as one split, "all". Where there are queries, also all_query and all_gallery:
    images that are neither, those of training, are in both."""
    whole = [split for split in listed if not split.endswith(("_query", "_gallery"))]
    parts = {"all": list(dict.fromkeys(chain.from_iterable(listed.values())))}
    if "testing_query" in listed:
        others = list(chain.from_iterable(listed[split] for split in whole))
        parts |= {f"all_{part}": [*others, *listed[f"testing_{part}"]]
                  for part in ("query", "gallery")}
    return parts


def unaugmented(name: str, samples: dict[str, Samples], listed: dict[str, Samples], opt,
                read_by_loaders: list[str]) -> dict[str, Dataset]:
    """A dataset of each split, without augmentation. listed: the `samples` before broken images
    were left out; read_by_loaders: the files that `--cache ram` decodes."""
    inputs, open_image = architectures.inputs(opt.arch), images.decode
    if opt.cache == "ram":
        open_image = cache.in_memory(read_by_loaders, available_cores()).open_image
    transform = Transforms(transforms.evaluation_transform(opt.crop_size, opt.resize,
                                                           inputs.interpolation))
    as_listed = numbered(listed)
    return {split: Dataset(name, paths, labels, classes, transform, inputs=inputs, seed=opt.seed,
                           open_image=open_image, listed=as_listed[split][:2])
            for split, (paths, labels, classes) in numbered(samples).items()}


def read_whole(name: str, opt) -> dict[str, Samples]:
    """What `read` gives; UserError for missing files, unless broken ones are to be left out."""
    listed = read(name, opt.source_path)
    if not opt.skip_broken_images:
        refuse_missing(listed)
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


def refuse_missing(samples: dict[str, Samples]) -> None:
    """UserError where files are missing or cannot be reached. Folders are listed once, which is
    faster than a look-up of each of 120,000 files; whether a file can be read shows when it is
    read."""
    paths = unique_paths(samples)
    listed = {folder: listing(folder) for folder in {os.path.dirname(path) for path in paths}}
    missing = [(path, wrong) for path in paths
               if os.path.basename(path) not in listed[os.path.dirname(path)]
               and (wrong := fault(path, "file"))]
    if missing:
        path, wrong = missing[0]
        raise UserError(f"--source_path: {len(missing):,} of {len(paths):,} listed images are "
                        f"missing, the first is {images.named(path)}, which {wrong}; "
                        f"{images.REMEDY}")


def unique_paths(samples: dict[str, Samples]) -> list[str]:
    """The files of all splits, each once."""
    return list({path: None for part in samples.values() for path, _ in part})


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


def leave_out_broken(samples: dict[str, Samples], opt) -> dict[str, Samples]:
    """With `--skip_broken_images`: `samples` without files that cannot be read, which are printed
    and counted."""
    if not opt.skip_broken_images:
        return samples
    broken = images.broken(unique_paths(samples), min(opt.kernels, available_cores()))
    kept = {split: [sample for sample in part if sample[0] not in broken]
            for split, part in samples.items()}
    for split, part in samples.items():
        n_kept, n = (len({label for _, label in samples}) for samples in (kept[split], part))
        print(f"--skip_broken_images: {split} keeps {len(kept[split]):,} of {len(part):,} images, "
              f"{n_kept:,} of {n:,} classes", flush=True)
    return kept


def refuse_empty(samples: dict[str, Samples], name: str, opt) -> None:
    """UserError, naming the first split without images, if there is one."""
    flag, value = datasets.held_out_by(opt)
    for split, part in samples.items():
        if part:
            continue
        if split.startswith("validation") and value != 1:
            which = " (every second image of a held-out class)" * split.endswith("_query")
            refuse(flag, f"{value:g} leaves nothing for {split}{which}", {
                "--train_val_split": "1 for no validation split, or a smaller share, or a share of "
                "the classes by --train_val_split_by_class",
                "--val_folds": "fewer folds, or another --val_fold"}[flag])
        raise UserError(f"--dataset: no image in the {split} split of "
                        f"{str(Path(opt.source_path) / name)!r}; at least 1 is needed")


def check_training(samples: Samples, name: str, opt) -> None:
    """UserError where the training `samples` are too few for a batch, or their classes for the
    features."""
    n_classes, fewest = len({label for _, label in samples}), criteria.fewest_classes(opt)
    if len(samples) < opt.bs and not opt.evaluate_only:
        refuse("--bs", f"{opt.bs} is more than the {len(samples):,} training images of --dataset "
               f"{name}", f"at most {len(samples)}")
    if n_classes < fewest and not opt.evaluate_only:
        flag, value = datasets.held_out_by(opt)
        refuse("--dataset", f"{name!r} has {n_classes} training class{'es' * (n_classes > 1)} with "
               f"{flag} {value:g}, but --diva_features {' '.join(opt.diva_features)} learns what "
               f"tells {fewest} classes apart",
               f"at least {fewest} training classes, or features that need no labels")
    if fewest and n_classes == len(samples) and opt.loss in criteria.TAKES:
        print("No training class has two images: every positive is the anchor's own picture.",
              flush=True)


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
    """The paths, the labels and the class names, in order of appearance, of each split. Query and
    gallery have the labels of their union."""
    splits = {}
    for split, part in samples.items():
        union = samples[split.removesuffix("_query").removesuffix("_gallery")]
        classes = list(dict.fromkeys(label for _, label in union))
        numbers = {label: number for number, label in enumerate(classes)}
        labels = np.array([numbers[label] for _, label in part], np.int64)
        splits[split] = [path for path, _ in part], labels, classes
    return splits
