"""Archives in each dataset's official format, filled with small pictures."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests import trees

Files = Iterable[tuple[str, bytes]]
# Numbers of images of the training and test classes: few, or those of the published dataset.
FEW = {"cub200": (12, 12), "cars196": (12, 12), "online_products": (12, 12), "in-shop": (12, 6, 6)}
FEW_CLASSES = {name: (4, 4) for name in FEW}
FULL = {"cub200": (5864, 5924), "cars196": (8054, 8131), "online_products": (59551, 60502),
        "in-shop": (25882, 14218, 12612)}
FULL_CLASSES = {"cub200": (100, 100), "cars196": (98, 98), "online_products": (11318, 11316),
                "in-shop": (3997, 3985)}
NAMES = {"cub200": ("CUB_200_2011.tgz",), "cars196": ("car_ims.tgz", "cars_annos.mat"),
         "online_products": ("Stanford_Online_Products.zip",),
         "in-shop": ("img.zip", "list_eval_partition.txt")}


def counts(name: str) -> dict[str, tuple[int, int]]:
    """What `datasets.PUBLISHED` would say of an archive of FEW images."""
    splits = ("training", "testing_query", "testing_gallery")[-len(FEW[name]):] if (
        name == "in-shop") else ("training", "testing")
    return {split: (n, FEW_CLASSES[name][split != "training"])
            for split, n in zip(splits, FEW[name], strict=True)}


def jpegs() -> list[bytes]:
    """The contents of some small pictures."""
    pictures = []
    for seed in range(17):
        memory = io.BytesIO()
        trees.picture(seed, (36, 36)).save(memory, "JPEG", quality=60)
        pictures.append(memory.getvalue())
    return pictures


def spread(n: int, n_classes: int) -> np.ndarray:
    """(n,) classes 0 to n_classes - 1 in order, as equal in size as possible."""
    return np.arange(n) * n_classes // n


def tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as whole:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            whole.addfile(entry, io.BytesIO(content))
    return path


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files:
            whole.writestr(name, content)
    return path


def cub200(folder: Path, images, classes) -> list[Path]:
    pictures, files, first = jpegs(), [("attributes.txt", b"1 has_bill_shape::curved\n"),
                                       ("CUB_200_2011/images.txt", b"1 001.Bird/1.jpg\n")], 1
    for n, n_classes in zip(images, classes, strict=True):
        files += [(f"CUB_200_2011/images/{first + c:03d}.Bird_{first + c}/{i}.jpg",
                   pictures[i % 17]) for i, c in enumerate(spread(n, n_classes).tolist())]
        first += n_classes
    files.append(("CUB_200_2011/images/001.Bird_1/._1.jpg", b"\0\5\x16\7"))
    return [tar(folder / "CUB_200_2011.tgz", files)]


def cars196(folder: Path, images, classes) -> list[Path]:
    """Pictures are numbered through, in an order that has nothing to do with the classes."""
    pictures = jpegs()
    of = np.concatenate([spread(images[0], classes[0]), classes[0] + spread(images[1], classes[1])])
    of = np.random.default_rng(0).permutation(of)
    names = [f"Make {c} S/V {c % 3}" for c in range(sum(classes))]
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    annotations = np.zeros((1, len(of)), [(field, object) for field in fields])
    for i, c in enumerate(of.tolist()):
        annotations[0, i] = (f"car_ims/{i + 1:06d}.jpg", 1, 1, 30, 30, np.uint8(c + 1),
                             np.uint8(i % 2))
    class_names = np.array([names], object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": class_names})
    files = [(f"car_ims/{i + 1:06d}.jpg", pictures[i % 17]) for i in range(len(of))]
    return [tar(folder / "car_ims.tgz", files), folder / "cars_annos.mat"]


def online_products(folder: Path, images, classes) -> list[Path]:
    pictures, files, image, first = jpegs(), [], 0, 0
    top = "Stanford_Online_Products"
    for split, n, n_classes in zip(("train", "test"), images, classes, strict=True):
        lines = ["image_id class_id super_class_id path"]
        for c in (first + spread(n, n_classes)).tolist():
            image += 1
            path = f"{('sofa', 'lamp')[c % 2]}_final/{111 + c}_{image}.JPG"
            files.append((f"{top}/{path}", pictures[image % 17]))
            lines.append(f"{image} {c + 1} {c % 2 + 1} {path}")
        files.append((f"{top}/Ebay_{split}.txt", "\n".join(lines).encode()))
        first += n_classes
    files.append((f"__MACOSX/{top}/sofa_final/._1.JPG", b"\0\5\x16\7"))
    return [zipped(folder / "Stanford_Online_Products.zip", files)]


def in_shop(folder: Path, images, classes) -> list[Path]:
    pictures, files, lines = jpegs(), [], []
    parts = (("train", 0, classes[0]), *((part, classes[0], classes[1])
                                         for part in ("query", "gallery")))
    for n, (status, first, n_classes) in zip(images, parts, strict=True):
        for i, c in enumerate((first + spread(n, n_classes)).tolist()):
            path = f"img/WOMEN/Tees/id_{c + 1:08d}/{status}_{i}.jpg"
            files.append((path, pictures[i % 17]))
            lines.append(f"{path} id_{c + 1:08d} {status}")
    partition = folder / "list_eval_partition.txt"
    partition.write_text("\n".join([str(len(lines)), "image_name item_id evaluation_status",
                                    *lines]) + "\n")
    return [zipped(folder / "img.zip", files), partition]


BUILDERS = {"cub200": cub200, "cars196": cars196, "online_products": online_products,
            "in-shop": in_shop}


def build(name: str, folder: Path, *, full: bool = False) -> list[Path]:
    """The archives of dataset `name` in `folder`, with few images or as many as published."""
    folder.mkdir(parents=True, exist_ok=True)
    images, classes = (FULL, FULL_CLASSES) if full else (FEW, FEW_CLASSES)
    return BUILDERS[name](folder, images[name], classes[name])
