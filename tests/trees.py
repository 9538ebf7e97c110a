"""Small trees of files in each dataset's real layout, for tests of every folder."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import numpy as np
from PIL import Image


def options(source_path: Path | str, **given) -> Namespace:
    """What `datasets` reads of the options, with small images."""
    defaults = {
        "source_path": str(source_path), "bs": 4, "seed": 1, "arch": "resnet18_normalize",
        "crop_size": 24, "resize": 32, "augmentation": "base", "diva_features": ["discriminative"],
        "realistic_augmentation": False, "realistic_main_augmentation": False,
        "train_val_split": 1, "train_val_split_by_class": False, "val_folds": None,
        "val_fold": None, "kernels": 0,
        "channels_last": False, "cache": "none", "skip_broken_images": False,
        "evaluate_only": False, "train_metrics": False, "loss": "margin",
        "batch_mining": "distance", "diva_sharing": "random", "diva_intra": "random"}
    return Namespace(**(defaults | given))


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth random RGB image, (width, height) = `size`, that JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """A picture at `path`, in the format of its extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    return path


def class_folders(folder: Path, n_classes: int = 6, n_images: int = 4, *, suffix: str = "jpg",
                  size: tuple[int, int] = (48, 40), numbered: bool = True) -> Path:
    """`folder/images/<class>/<files>`; hidden files lie between them."""
    for c in range(n_classes):
        name = f"{c + 1:03d}.Class_{c + 1}" if numbered else f"Class {c + 1}"
        for i in range(n_images):
            write(folder / "images" / name / f"image_{i:02d}.{suffix}", 100 * c + i, size)
        (folder / "images" / name / f"._image_00.{suffix}").write_bytes(b"\0\5\x16\7")
        (folder / "images" / name / ".DS_Store").write_bytes(b"Bud1")
    (folder / "images" / "._001.Class_1").write_bytes(b"\0\5\x16\7")
    return folder


def online_products(folder: Path, n_classes: int = 6, n_images: int = 4) -> Path:
    """The layout of Stanford Online Products; the first half of the classes trains."""
    tables = {"train": [], "test": []}
    image = 0
    for c in range(n_classes):
        split = "train" if c < n_classes // 2 else "test"
        kind = ("bicycle", "sofa")[c % 2]
        for i in range(n_images):
            image += 1
            path = f"{kind}_final/{111000000000 + c}_{i}.JPG"
            write(folder / "images" / path, image)
            tables[split].append(f"{image} {c + 1} {c % 2 + 1} {path}")
    (folder / "Info_Files").mkdir()
    for split, rows in tables.items():
        text = "\n".join(["image_id class_id super_class_id path", *rows]) + "\n"
        (folder / "Info_Files" / f"Ebay_{split}.txt").write_text(text)
    return folder


def in_shop(folder: Path, n_classes: int = 6, n_images: int = 4) -> Path:
    """The layout of In-Shop; half of the items train, the others are half query, half gallery."""
    rows = []
    for c in range(n_classes):
        item = f"id_{c + 1:08d}"
        kind = ("WOMEN/Dresses", "MEN/Denim")[c % 2]
        for i in range(n_images):
            path = f"img/{kind}/{item}/0{i + 1}_1_front.jpg"
            write(folder / path, 100 * c + i)
            status = "train" if c < n_classes // 2 else ("query", "gallery")[i % 2]
            rows.append(f"{path:<70}{item} {status}")
    (folder / "Eval").mkdir()
    header = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    (folder / "Eval" / "list_eval_partition.txt").write_text(header + "\n".join(rows) + "\n")
    return folder


def table(folder: Path, rows: list[dict], *, size: tuple[int, int] = (48, 40)) -> Path:
    """`folder/table.csv` of `rows`, with the columns in the order in which they first appear, and a
    picture for each path that is not there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        if str(row["path"]).strip() and not (folder / row["path"]).exists():
            write(folder / row["path"], number, size)
    return folder


def table_rows(n_classes: int = 6, n_images: int = 4, *, queries: bool = False, **further
               ) -> list[dict]:
    """Rows of a table whose first half of classes trains; with `queries`, every second test image
    is a query and the others are the gallery."""
    rows = []
    for c in range(n_classes):
        train = c < n_classes // 2
        for i in range(n_images):
            row = {"path": f"pictures/{c}_{i}.jpg", "label": c + 1,
                   "split": "train" if train else "validation"}
            if queries:
                row |= {"is_query": "" if train else i % 2 == 0,
                        "is_gallery": "" if train else i % 2 == 1}
            rows.append(row | further)
    return rows


def split_folders(folder: Path, **classes: int) -> Path:
    """`folder/<split>/<class>/<files>`, three pictures in each of the classes 0 to n - 1 of each
    split; a split's classes begin where those of the one before end."""
    first = 0
    for split, n in classes.items():
        for c in range(first, first + n):
            for i in range(3):
                write(folder / split / f"{c:02d}" / f"{i}.jpg", 10 * c + i)
        first += n
    return folder
