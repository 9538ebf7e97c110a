"""The index of a gallery: the embeddings of a folder's images, in a file that follows the folder.

The file is NumPy's .npz, with these arrays:

    kind, network, evaltype, gallery    the format, a digest of the network, what the embeddings
                                        are, and the folder of the images
    names       of the images, in UTF-8, joined by zero bytes
    stamps      (N, 2) int64, of each image its bytes and the time of its last change in ns
    exact       faiss's IndexFlatL2 of the embeddings

and after a search with --factory:

    factory, compressed     its name, and faiss's index of that name
    sample, points, neighbours      to judge it by: rows of the gallery (S,), their embeddings
                                    (S, D), and the rows of their exact neighbours (S, k)

`faiss.deserialize_index` reads `exact` and `compressed`.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from torch import nn

from datasets.pictures import Picture
from utilities import tool
from utilities.errors import RunError, refuse
from utilities.files import fault

KIND = "gallery index of DiVA, version 1"
SAMPLE, NEIGHBOURS = 200, 10    # images that judge a compressed index, and of each how many
PART = 50_000                   # images that are embedded between two writes of the file

INDEXES = ("exact", "compressed")
UNREADABLE = (OSError, TypeError, ValueError, LookupError, EOFError, zipfile.BadZipFile)
Embed = Callable[[Sequence[Picture]], np.ndarray]   # -> (N, D) float32
Usable = Callable[[Sequence[Picture]], Sequence[Picture]]


class Found(NamedTuple):
    """Numbers of images: `kept` as the file holds them, `new` to it, `changed` since it was
    written, and `gone` from the gallery."""

    kept: int
    new: int
    changed: int
    gone: int


def cached(gallery: Path, network: str, evaltype: str) -> Path:
    """The file of an index in the user's cache folder. RunError where that cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    whose = "\n".join([str(gallery.resolve()), network, evaltype])
    folder = cache / "diva" / hashlib.sha256(os.fsencode(whose)).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {str(folder)!r} ({error.strerror}); --index names another "
                       "file") from error
    return folder / "index.npz"


def digest(network: nn.Module, options) -> str:
    """A hash of all that an image's embedding depends on beside the image."""
    hashed = hashlib.sha256(f"{options.arch} {options.crop_size} {options.resize}".encode())
    for name, tensor in network.state_dict().items():
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(tensor.cpu().numpy()))
    return hashed.hexdigest()


def status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:     # reading the image will tell
        return None


class Index:
    """The index in the file `path`, of the images in the folder `gallery`.

    network, evaltype: of the embeddings. flag: the one that named the file, None for a file of the
    cache, which is replaced where it cannot be used.
    """

    def __init__(self, path: Path, gallery: Path, *, network: str, evaltype: str, flag: str | None):
        self.path, self.flag = path, flag
        self.whose = {"kind": KIND, "network": network, "evaltype": evaltype,
                      "gallery": str(gallery.resolve())}
        self.names: list[str] = []
        self.arrays: dict[str, np.ndarray] = self.read()

    def read(self) -> dict[str, np.ndarray]:
        """What the file holds, {} where there is none; UserError where it is not of this gallery
        and network."""
        if fault(self.path) == "does not exist":
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                whose = {name: str(file[name]) for name in self.whose}
                arrays = {name: file[name] for name in file.files
                          if name not in (*whose, *INDEXES)}
            names = names_of(arrays["names"])
        except UNREADABLE as error:
            if self.flag is None:
                return {}
            refuse(self.flag, f"{str(self.path)!r} is no index of a gallery "
                   f"({type(error).__name__})", "a path where nothing is yet, or such an index")
        for name, wanted in self.whose.items():
            if whose[name] != wanted:
                if self.flag is None:
                    return {}
                refuse(self.flag, f"{str(self.path)!r} is of another {name}",
                       "a path where nothing is yet, or the index of this gallery and network")
        self.names = names
        return arrays

    def follow(self, found: Sequence[Picture], embed: Embed, usable: Usable) -> Found:
        """Makes the index hold the images `found`, and no other, embedding those that are new or
        were changed and are `usable`; writes the file where anything differs."""
        stamps = {picture.name: stamp(status(picture.source)) for picture in found}
        held = dict(zip(self.names, map(tuple, self.arrays.get("stamps", [])), strict=True))
        kept = [picture for picture in found if held.get(picture.name) == stamps[picture.name]]
        known = {picture.name for picture in kept}
        new = usable([picture for picture in found if picture.name not in known])
        if new or len(kept) < len(held) or not held:
            rows = {name: row for row, name in enumerate(self.names)}
            vectors = (self.exact().reconstruct_batch([rows[picture.name] for picture in kept])
                       if kept else None)
            for part in [new[i:i + PART] for i in range(0, len(new), PART)] or [[]]:
                if part or vectors is None:
                    added = embed(part)     # UserError for no image
                    vectors = added if vectors is None else np.concatenate([vectors, added])
                kept = kept + part
                self.names = [picture.name for picture in kept]
                self.arrays = {"names": as_bytes(self.names), "exact": flat(vectors),
                               "stamps": np.array([stamps[name] for name in self.names], np.int64)}
                self.write()
        return Found(len(known), len([p for p in new if p.name not in held]),
                     len([p for p in new if p.name in held]), len(held.keys() - stamps.keys()))

    def exact(self) -> faiss.Index:
        return self.index("exact")

    def index(self, name: str) -> faiss.Index:
        """faiss's index `name` of INDEXES, which is read from the file when it is first needed."""
        if name not in self.arrays:
            try:
                with np.load(self.path, allow_pickle=False) as file:
                    self.arrays[name] = file[name]
            except UNREADABLE as error:
                raise RunError(f"{str(self.path)!r} is damaged ({type(error).__name__}); delete "
                               "it") from error
        return faiss.deserialize_index(self.arrays[name])

    def compressed(self, factory: str, nprobe: int) -> tuple[faiss.Index, float]:
        """faiss's index by the name `factory`, trained and filled where the file lacks it, and its
        recall against exact search on a sample of the gallery; nprobe: the lists of an inverted
        file that it searches. UserError where faiss cannot make it of these images."""
        if str(self.arrays.get("factory")) != factory:
            exact = self.exact()
            vectors = exact.reconstruct_n(0, exact.ntotal)
            sample = np.unique(np.linspace(0, len(vectors) - 1, SAMPLE).astype(np.int64))
            _, neighbours = exact.search(vectors[sample], NEIGHBOURS + 1)
            self.arrays |= {"factory": np.array(factory), "sample": sample,
                            "neighbours": neighbours, "points": vectors[sample],
                            "compressed": faiss.serialize_index(made(factory, vectors))}
            self.write()
        index = self.index("compressed")
        if inverted := faiss.try_extract_index_ivf(index):
            inverted.nprobe = nprobe
        _, found = index.search(self.arrays["points"], NEIGHBOURS + 1)
        return index, recall(self.arrays["sample"], self.arrays["neighbours"], found)

    def write(self) -> None:
        tool.write(self.path, lambda file: np.savez(
            file, **self.arrays, **{name: np.array(text) for name, text in self.whose.items()}))


def stamp(status: os.stat_result | None) -> tuple[int, int]:
    """What changes when a file's content does: its size and the time of its last change."""
    return (-1, -1) if status is None else (status.st_size, status.st_mtime_ns)


def as_bytes(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\0".join(names).encode(errors="surrogateescape"), np.uint8)


def names_of(array: np.ndarray) -> list[str]:
    return array.tobytes().decode(errors="surrogateescape").split("\0")


def flat(vectors: np.ndarray) -> np.ndarray:
    """The bytes of an exact index of `vectors` (N, D)."""
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    return faiss.serialize_index(index)


def made(factory: str, vectors: np.ndarray) -> faiss.Index:
    """faiss's index by the name `factory`, trained on `vectors` (N, D) and holding them."""
    index = empty(factory, vectors.shape[1])
    for part in layers(index):      # minutes of training for a filter that searches do not use
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False
    try:
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        refuse("--factory", f"{factory!r} cannot be trained on {len(vectors):,} images "
               f"({reason(error)})", "fewer lists (IVF) or smaller codes (PQ)")
    return index


def empty(factory: str, dim: int) -> faiss.Index:
    """faiss's untrained index by the name `factory`, for vectors of `dim` dimensions."""
    try:
        return faiss.index_factory(dim, factory)
    except RuntimeError as error:
        refuse("--factory", f"{factory!r} names no index of {dim} dimensions ({reason(error)})",
               "a name as faiss's index_factory reads it, e.g. IVF1024,PQ64")


def layers(index: faiss.Index) -> Iterator[faiss.Index]:
    """`index` and the indexes that it wraps."""
    while index is not None:
        index = faiss.downcast_index(index)
        yield index
        index = getattr(index, "index", None) or getattr(index, "base_index", None)


def reason(error: RuntimeError) -> str:
    """faiss's own words, without the place in its source."""
    return str(error).splitlines()[0].rpartition(": ")[2]


def recall(own: np.ndarray, exact: np.ndarray, found: np.ndarray) -> float:
    """The share of the `exact` neighbours (S, k) that are among those `found` (S, k), leaving out
    the image itself, `own` (S,)."""
    shares = [len({*wanted} & {*given} - {row, -1}) / max(1, len({*wanted} - {row, -1}))
              for row, wanted, given in zip(own.tolist(), exact.tolist(), found.tolist(),
                                            strict=True)]
    return float(np.mean(shares))


def nearest(index: faiss.Index, query: np.ndarray, k: int, own: set[int]
            ) -> list[tuple[float, int]]:
    """(distance, row) of the k rows nearest to `query` (D,), without the rows `own`."""
    # One query at a time, for which faiss computes distances from differences.
    squares, rows = index.search(query[None], min(k + len(own), index.ntotal))
    pairs = zip(np.sqrt(squares[0].clip(min=0)).tolist(), rows[0].tolist(), strict=True)
    return [(distance, row) for distance, row in pairs if row >= 0 and row not in own][:k]
