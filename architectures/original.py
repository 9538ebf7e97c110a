"""Reads the checkpoints that the original saved, without trusting them.

Besides the state dict they hold an argparse.Namespace and objects of the original's classes, which
`torch.load(weights_only=True)` refuses. A pickle can call whatever it names. Here it can name only
BUILDERS and DTYPES; every other name becomes an object that ignores all that is done to it. Reads
torch.save's zip format and the older one of torch < 1.6.
"""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

MAGIC_NUMBER = 0x1950a86a20f9469cfc6c      # opens a file in the older format
DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32,
          "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
          "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
          "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}


class _Sealed(type):
    """Lets a pickle set attributes of objects, but not of classes."""

    def __setattr__(cls, name, value):
        raise pickle.UnpicklingError(f"the file tries to change {cls.__name__}.{name}")


class _Inert(metaclass=_Sealed):
    """Stands for every class and function that the file names."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    append = extend = add = __call__


class _Rebuilt(metaclass=_Sealed):
    """torch._utils._rebuild_tensor(_v2): a strided part of a storage; hooks are ignored."""

    def __new__(cls, storage: Tensor, offset, size, stride, *ignored):
        return storage.as_strided(size, stride, offset)


class _Parameter(metaclass=_Sealed):
    """torch._utils._rebuild_parameter: the tensor."""

    def __new__(cls, tensor: Tensor, *ignored):
        return tensor


BUILDERS = {("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _Rebuilt,
            ("torch._utils", "_rebuild_tensor_v2"): _Rebuilt,
            ("torch._utils", "_rebuild_parameter"): _Parameter}


class _Unpickler(pickle.Unpickler):
    """storages: key -> flat tensor, made by `make(key, dtype, n)` when the file refers to it."""

    def __init__(self, file: BinaryIO, storages: dict[str, Tensor], make):
        super().__init__(file, encoding="utf-8")
        self.storages, self.make = storages, make

    def find_class(self, module, name):
        if module in ("torch", "torch.cuda") and name in DTYPES:
            return DTYPES[name]
        return BUILDERS.get((module, name), _Inert)

    def persistent_load(self, reference):
        _, dtype, key, _, n = reference[:5]
        if key not in self.storages:
            self.storages[key] = self.make(key, dtype, n)
        return self.storages[key]


def load(path: str | os.PathLike):
    """The tensors, dicts, lists and numbers that torch.save wrote to `path`; the rest is inert.

    A damaged file raises pickle.UnpicklingError or any other error.
    """
    if zipfile.is_zipfile(path):
        return _load_zip(Path(path))
    with open(path, "rb") as file:
        return _load_older(file)


def _load_zip(path: Path):
    with zipfile.ZipFile(path) as archive:
        pickled = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if pickled is None:
            raise pickle.UnpicklingError("no data.pkl inside")
        folder = pickled.removesuffix("data.pkl")

        def make(key, dtype, n):
            data = bytearray(archive.read(f"{folder}data/{key}"))
            return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

        with archive.open(pickled) as file:
            return _Unpickler(file, {}, make).load()


def _load_older(file: BinaryIO):
    """Five pickles (magic number, version, the machine, the content, the storages' keys), then the
    storages: a count of 8 bytes and the numbers."""
    storages: dict[str, Tensor] = {}

    def read():
        return _Unpickler(file, storages, lambda _, dtype, n: torch.empty(n, dtype=dtype)).load()

    if read() != MAGIC_NUMBER:
        raise pickle.UnpicklingError("not written by torch.save")
    read(), read()
    content = read()
    for key in read():
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        data = bytearray(file.read(count * storage.element_size()))
        if count:
            storage.copy_(torch.frombuffer(data, dtype=storage.dtype))
    return content
