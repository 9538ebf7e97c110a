"""`python -m evaluation.search`: the images of a gallery that are nearest to a query."""

from pathlib import Path

from evaluation import tools
from utilities import terminal, tool
from utilities.options import FROM_1, Flag

PROGRAM = "evaluation.search"
DESCRIPTION = "Find the images of a folder that are nearest to an image, by a run's network."
FLAGS = (
    tools.CHECKPOINT,
    Flag("--gallery", Path, None, "folder of the images to search in, at any depth"),
    Flag("--query", Path, [], "images to search for; one that lies in the gallery is left out of "
         "its own neighbours", nargs="+"),
    Flag("--pair", Path, [], "two images, whose distance is printed, in place of a search",
         nargs=2),
    Flag("--k", int, 10, "neighbours of each query", FROM_1),
    Flag("--evaltype", str, None, "embedding to compare by: a feature, or Combined_ or Sum_ of "
         "some; when not given: the first of the run's evaltypes"),
    Flag("--index", Path, None, "file to keep the gallery's index in; when not given: a file in "
         "the user's cache folder. It follows the gallery's files"),
    Flag("--factory", str, None, "search approximately, in an index that faiss's index_factory "
         "makes by this name, e.g. IVF1024,PQ64; when not given: exactly"),
    Flag("--nprobe", int, 16, "lists of an IVF --factory that are searched", FROM_1),
    Flag("--out", Path, None, "picture (PNG) to draw of each query's first 20 neighbours; "
         "when not given: retrievals.png in the working directory, with a number where that "
         "exists"),
    tools.SKIP, *tools.MACHINE,
)

if __name__ == "__main__":      # before torch is imported
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import itertools
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

import faiss
import numpy as np

from datasets import pictures
from datasets.pictures import Picture
from evaluation import evaltypes, gallery, retrievals
from evaluation.embed import of_pictures
from evaluation.gallery import Index
from evaluation.retrievals import Tile
from utilities.environment import available_cores
from utilities.errors import refuse
from utilities.files import fault

DRAWN = 20      # neighbours of each query in the picture
ONE_SEARCH = ("gallery", "query", "index", "factory", "nprobe", "k", "out", "skip_broken_images")


def main(arguments: Namespace) -> None:
    check(arguments)
    picture = picture_path(arguments)
    found = [] if arguments.pair else pictures.find(arguments.gallery, "--gallery")
    network, options = tools.opened(arguments.checkpoint, arguments)
    evaltype = arguments.evaltype or options.evaltypes[0]
    features = list(network.heads)
    evaltypes.parse(evaltype, features, flag="--evaltype")
    options.evaltypes = [evaltype]

    def embed(part: Sequence[Picture], flag: str = "--gallery") -> np.ndarray:
        return of_pictures(network, options, part, flag, arguments.kernels)[evaltype].numpy()

    if arguments.pair:
        one, other = embed(given(arguments.pair), "--pair")
        print(f"{np.linalg.norm(one - other):.4f}  {evaltype}: {arguments.pair[0]} "
              f"{arguments.pair[1]}")
        return
    if arguments.factory:
        gallery.empty(arguments.factory, options.embed_dim * evaltypes.n_heads(evaltype, features))
    queries = embed(given(arguments.query), "--query")
    index = kept_index(arguments, found, gallery.digest(network, options), evaltype, embed)
    searched = chosen(index, arguments)
    show(arguments, picture, evaltype, index, searched, queries)


def check(arguments: Namespace) -> None:
    """UserError for options that contradict one another, and for files that are not there."""
    if arguments.pair:
        for name in ONE_SEARCH:
            if name in arguments.given:
                refuse(f"--{name}", "given with --pair", "one of them")
    elif not (arguments.gallery and arguments.query):
        refuse("--query" if arguments.gallery else "--gallery", "not given",
               "--gallery <folder> --query <image>, or --pair <image> <image>")
    for name in ("query", "pair"):
        for path in getattr(arguments, name):
            if wrong := fault(path, "file"):
                refuse(f"--{name}", f"{str(path)!r} {wrong}", "image files")
    if "nprobe" in arguments.given and "IVF" not in (arguments.factory or ""):
        refuse("--nprobe", f"{arguments.nprobe} given without an inverted file to search",
               "with --factory IVF...")
    if arguments.gallery:
        if wrong := fault(arguments.gallery, "folder"):
            refuse("--gallery", f"{str(arguments.gallery)!r} {wrong}", "a folder of images")
        for name in ("index", "out"):
            path = getattr(arguments, name)
            if path and path.resolve().is_relative_to(arguments.gallery.resolve()):
                refuse(f"--{name}", f"{str(path)!r} lies in the gallery", "a path outside of it")


def picture_path(arguments: Namespace) -> Path | None:
    """Where to draw; UserError where that is not possible."""
    if arguments.pair:
        return None
    names = (f"retrievals{f'_{i}' * (i > 0)}.png" for i in itertools.count())
    path = arguments.out or next(Path(name) for name in names if not os.path.lexists(name))
    if path.resolve().is_relative_to(arguments.gallery.resolve()):
        refuse("--out", "not given, and the working directory lies in the gallery",
               "a path outside of it")
    tool.check_new(path, "--out")
    return path


def given(paths: Sequence[Path]) -> list[Picture]:
    return [Picture(str(path), str(path)) for path in paths]


def kept_index(arguments: Namespace, found: Sequence[Picture], network: str, evaltype: str,
               embed: gallery.Embed) -> Index:
    """The gallery's index, up to date; prints what it took."""
    start = time.perf_counter()
    if arguments.index and fault(arguments.index):
        tool.check_new(arguments.index, "--index")
    index = Index(arguments.index or gallery.cached(arguments.gallery, network, evaltype),
                  arguments.gallery, network=network, evaltype=evaltype,
                  flag="--index" if arguments.index else None)

    usable = (partial(pictures.without_broken, threads=available_cores())
              if arguments.skip_broken_images else list)
    was = index.follow(found, embed, usable)
    print(f"Index of {len(index.names):,} images: {was.kept:,} kept, {was.new:,} new, "
          f"{was.changed:,} changed, {was.gone:,} gone, in {time.perf_counter() - start:.1f} s: "
          f"{index.path}", flush=True)
    return index


def chosen(index: Index, arguments: Namespace) -> faiss.Index:
    """The index to search in: exact, or by --factory, of which it prints what recall it loses."""
    if not arguments.factory:
        return index.exact()
    compressed, recall = index.compressed(arguments.factory, arguments.nprobe)
    print(f"--factory {arguments.factory}: recall@{gallery.NEIGHBOURS} of exact search "
          f"{recall:.3f}, lost {1 - recall:.3f}, on {len(index.arrays['sample']):,} images of the "
          "gallery; distances are approximate", flush=True)
    return compressed


def show(arguments: Namespace, picture: Path, evaltype: str, index: Index,
         searched: faiss.Index, queries: np.ndarray) -> None:
    """Prints and draws the neighbours of the `queries` (Q, D)."""
    files = [os.path.join(arguments.gallery, name) for name in index.names]
    same = {}
    for row, file in enumerate(files):
        if seen := gallery.status(file):
            same.setdefault((seen.st_dev, seen.st_ino), set()).add(row)
    sheet = []
    for path, query in zip(arguments.query, queries, strict=True):
        status = os.stat(path)
        own = same.get((status.st_dev, status.st_ino), set())
        near = gallery.nearest(searched, query, arguments.k, own)
        print(f"{path}  ({evaltype})")
        for rank, (distance, row) in enumerate(near, start=1):
            print(f"{rank:4d}  {distance:.4f}  {files[row]}")
        line = [Tile(str(path), name=path.name, text="query")]
        sheet.append(line + [
            Tile(files[row], name=index.names[row], text=f"{rank}: {distance:.4f}")
            for rank, (distance, row) in enumerate(near[:DRAWN], start=1)])
    drawn = retrievals.draw(sheet, [f"{arguments.gallery}, {evaltype}"])
    tool.write(picture, lambda file: file.write(drawn))
    print(f"Picture: {picture}")


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
