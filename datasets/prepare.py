"""Official archives -> the folders that `--dataset` reads.

    python -m datasets.prepare cub200 --source_path <folder> --archive CUB_200_2011.tgz

A dataset appears complete or not at all: archives are unpacked into a hidden folder beside it,
which takes its name once the published numbers of images and classes are there. At the end stands
the report of `--check_data`.
"""

import os
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets import PUBLISHED, archives
from datasets.download import fetch
from utilities import interrupt, terminal, tool
from utilities.environment import available_cores
from utilities.errors import RunError, UserError, refuse
from utilities.files import fault
from utilities.interrupt import Interrupted
from utilities.options import Flag

PROGRAM = "datasets.prepare"
DESCRIPTION = "Turn the official archives of a dataset into the folder that --dataset reads."
TAR = (".tgz", ".tar.gz", ".tar")


class Archive(NamedTuple):
    """An official file: its name, its MD5 checksum and its address, None where there is none."""

    name: str
    md5: str | None = None
    url: str | None = None

    @property
    def endings(self) -> tuple[str, ...]:
        ending = Path(self.name).suffix
        return TAR if ending in TAR else (ending,)


class Source(NamedTuple):
    """Where a dataset comes from: the page that offers it, and its archives."""

    page: str
    archives: tuple[Archive, ...]


CALTECH = "https://data.caltech.edu/records/65de6-vp158"
KRAUSE = "http://ai.stanford.edu/~jkrause"
SOURCES = {
    "cub200": Source(CALTECH, (
        Archive("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78",
                f"{CALTECH}/files/CUB_200_2011.tgz"),)),
    "cars196": Source(f"{KRAUSE}/cars/car_dataset.html", (
        Archive("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", f"{KRAUSE}/car196/car_ims.tgz"),
        Archive("cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc",
                f"{KRAUSE}/car196/cars_annos.mat"))),
    "online_products": Source("https://cvgl.stanford.edu/projects/lifted_struct", (
        Archive("Stanford_Online_Products.zip", "7f73d41a2f44250d4779881525aea32e",
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip"),)),
    "in-shop": Source("https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html", (
        Archive("img.zip"), Archive("list_eval_partition.txt"))),
}

FLAGS = (
    Flag("dataset", str, None, "the dataset to prepare", SOURCES, required=True),
    Flag("--source_path", Path, None, "folder for datasets, in which the dataset's folder is made",
         required=True),
    Flag("--archive", str, [], "the official files, in any order", nargs="+"),
    Flag("--download", bool, False, "download the official files that --archive does not give, "
         "into --source_path; a download that broke off goes on"),
    Flag("--mirror", str, None, "with --download: address of a folder that has the files under "
         "their official names, in place of the official addresses"),
    Flag("--any_checksum", bool, False, "use archives whose checksum is not the official one"),
)


def main(args: Namespace) -> int:
    """Makes `<source_path>/<dataset>`; returns 0 where `--check_data` finds it whole, else 1."""
    if args.mirror is not None and not args.download:
        refuse("--mirror", f"{args.mirror!r} given without --download", "with --download")
    try:
        return prepare(args)
    except Interrupted as stop:
        print(f"Stopped by {stop}: nothing half done was left, and a download goes on where it "
              "stopped.", file=sys.stderr)
        raise


def prepare(args: Namespace) -> int:
    """See `main`."""
    root = Path(os.path.abspath(args.source_path))
    check_free(root / args.dataset)
    given = assigned(args.archive, args.dataset)
    make_folder(root)
    files = obtained(args, given, root)
    for archive in SOURCES[args.dataset].archives:
        check_sum(files[archive], archive, args.any_checksum)
    unfinished = root / f".{args.dataset}.unfinished"
    make_folder(unfinished, exist_ok=False)
    try:
        made = unfinished / args.dataset
        PLACING[args.dataset](made, *files.values())
        check_counts(args.dataset, made, list(files.values()))
        with interrupt.shield(raises=False), archives.written(root / args.dataset):
            os.sync()       # so that a dataset with its name is whole on the disk
            made.rename(root / args.dataset)
    finally:
        with interrupt.shield(raises=False):
            shutil.rmtree(unfinished, ignore_errors=True)
    from datasets.check import check_data

    print(f"Prepared {str(root / args.dataset)!r}.", flush=True)
    whole = check_data(args.dataset, Namespace(source_path=str(root), kernels=available_cores()))
    return 0 if whole else 1


def check_free(folder: Path) -> None:
    """UserError where there is something already; an empty folder may be there."""
    try:
        taken = os.path.islink(folder) or (os.path.lexists(folder) and os.listdir(folder))
    except OSError:     # it is no folder, or may not be read
        taken = True
    if taken:
        refuse("--source_path", f"{str(folder)!r} is there and not an empty folder, and nothing is "
               "overwritten", "a folder for datasets without it")


def make_folder(folder: Path, *, exist_ok: bool = True) -> None:
    """UserError where `folder` cannot be made or written, or is there and may not be."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "Permission denied")
    except FileExistsError:
        what = "is no folder" if exist_ok else ("is left of a preparation that was killed, or "
                                                "belongs to one that is at work")
        refuse("--source_path", f"{str(folder)!r} {what}",
               "a folder for datasets" if exist_ok else "without it: delete it if none is at work")
    except OSError as error:
        refuse("--source_path", f"cannot write into {str(folder)!r} ({error.strerror or error})",
               "a folder that you may write")


def assigned(paths: Sequence[str], dataset: str) -> dict[Archive, Path]:
    """Which official file each of the given ones is, by its ending; UserError where that is not
    clear."""
    official, found = SOURCES[dataset].archives, {}
    wanted = ", ".join(archive.name for archive in official)
    for given in paths:
        path = Path(os.path.expanduser(given))
        if wrong := fault(path, "file"):
            refuse("--archive", f"{given!r} {wrong}", wanted)
        fitting = [archive for archive in official if given.lower().endswith(archive.endings)]
        if not fitting:
            refuse("--archive", f"{given!r} is no file of {dataset}", wanted)
        if fitting[0] in found:
            refuse("--archive", f"{given!r} and {str(found[fitting[0]])!r} given for "
                   f"{fitting[0].name}", wanted)
        found[fitting[0]] = path
    return found


def obtained(args: Namespace, given: dict[Archive, Path], root: Path) -> dict[Archive, Path]:
    """All files of the dataset in their order, those not given by download."""
    page, wanted = SOURCES[args.dataset]
    missing = [archive for archive in wanted if archive not in given]
    by_hand = (f"visit {page} and give the {'file' if len(wanted) == 1 else 'files'} by --archive "
               + " ".join(archive.name for archive in wanted))
    if missing and not args.download:
        refuse("--archive", f"{', '.join(archive.name for archive in missing)} not given",
               f"--download, or {by_hand}" if missing[0].url else by_hand)
    for archive in missing:
        url = f"{args.mirror.rstrip('/')}/{archive.name}" if args.mirror else archive.url
        if url is None:
            refuse("--download", f"{archive.name} has no address", by_hand)
        given = given | {archive: root / archive.name}
        if fault(given[archive], "file"):
            try:
                fetch(url, given[archive])
            except RunError as error:
                raise RunError(f"{error}; {by_hand}") from error
            print(f"Downloaded {str(given[archive])!r}, which is no longer needed afterwards.",
                  flush=True)
    return {archive: given[archive] for archive in wanted}


def check_sum(path: Path, archive: Archive, any_checksum: bool) -> None:
    """UserError where the file's checksum is not the official one, unless any will do."""
    found = archives.md5(path)
    if archive.md5 in (None, found):
        return
    if not any_checksum:
        refuse("--archive", f"{str(path)!r} has the MD5 checksum {found}, the official "
               f"{archive.name} has {archive.md5}", "the official file, or --any_checksum to use "
               "another")
    print(f"--any_checksum: {str(path)!r} has the MD5 checksum {found}, not {archive.md5}.",
          flush=True)


def from_cub200(into: Path, archive: Path) -> None:
    """`[CUB_200_2011/]images/<class>/<file>`."""
    archives.unpack(archive, into, partial(below, "images", 3), "images/<class>/<file>")


def from_cars196(into: Path, archive: Path, annotations: Path) -> None:
    """`car_ims/<file>` into the folders of the classes that `cars_annos.mat` tells."""
    folders = car_classes(annotations)

    def place(parts: tuple[str, ...]) -> str | None:
        folder = folders.get("/".join(parts[-2:]))
        return f"images/{folder}/{parts[-1]}" if folder else None

    archives.unpack(archive, into, place, f"image that {str(annotations)!r} lists")


def car_classes(path: Path) -> dict[str, str]:
    """{`car_ims/000001.jpg`: `001.AM General Hummer SUV 2000`, the folder of its class} by the
    file's `annotations` and `class_names`; a slash in a name becomes a dash. UserError for another
    file."""
    import numpy as np
    from scipy.io import loadmat

    try:
        held = loadmat(path, squeeze_me=True, variable_names=("annotations", "class_names"))
        names = [re.sub(r"[/\\\0]", "-", str(name)) for name in np.atleast_1d(held["class_names"])]
        rows = np.atleast_1d(held["annotations"])
        return {str(row["relative_im_path"]): f"{int(row['class']):03d}.{names[row['class'] - 1]}"
                for row in rows}
    except MemoryError:
        raise
    except Exception as error:      # what a damaged file raises depends on the byte that is wrong
        refuse("--archive", f"cannot read the annotations in {str(path)!r} "
               f"({' '.join(str(error).split()) or type(error).__name__})", "cars_annos.mat")


def from_online_products(into: Path, archive: Path) -> None:
    """`[Stanford_Online_Products/]<super class>_final/<file>`, and the lists beside them."""
    def place(parts: tuple[str, ...]) -> str | None:
        if re.fullmatch(r"Ebay_\w+\.txt", parts[-1]) and len(parts) <= 2:
            return f"Info_Files/{parts[-1]}"
        if len(parts) in (2, 3) and parts[-2].endswith("_final"):
            return f"images/{parts[-2]}/{parts[-1]}"
        return None

    archives.unpack(archive, into, place, "<super class>_final/<file>")


def from_in_shop(into: Path, archive: Path, partition: Path) -> None:
    """`img/<MEN|WOMEN>/<type>/<item>/<file>`, and the list of the parts."""
    archives.unpack(archive, into, partial(below, "img", 5),
                    "img/<MEN|WOMEN>/<type>/<item>/<file>")
    with archives.explained(partition):
        content = partition.read_bytes()
    archives.write(content, into / "Eval" / "list_eval_partition.txt")


PLACING = {"cub200": from_cub200, "cars196": from_cars196, "online_products": from_online_products,
           "in-shop": from_in_shop}


def below(folder: str, n: int, parts: tuple[str, ...]) -> str | None:
    """The path from `folder` on, which is the first or second of `parts`, if it has n parts."""
    for start in (0, 1):
        if len(parts) == start + n and parts[start] == folder:
            return "/".join(parts[start:])
    return None


def check_counts(name: str, made: Path, files: Sequence[Path]) -> None:
    """UserError unless `made` holds the published numbers of images and classes."""
    from datasets import splits

    given = " and ".join(repr(str(path)) for path in files) + (" are" if files[1:] else " is")
    try:
        samples = splits.read(name, str(made.parent))
        splits.refuse_missing(samples)
    except UserError as error:
        reason = str(error).replace(str(made.parent), str(made.parent.parent))
        raise UserError(f"--archive: {given} not complete: {reason}") from error
    for split, published in PUBLISHED[name].items():
        found = len(samples[split]), len({label for _, label in samples[split]})
        if found != published:
            refuse("--archive", "{} not complete: {} {:,} images, {:,} classes; published are {:,} "
                   "and {:,}".format(given, split, *found, *published),
                   f"the official archives of {name}")


if __name__ == "__main__":
    terminal.prepare()
    sys.exit(tool.run(PROGRAM, main, tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)))
