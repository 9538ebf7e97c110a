"""Reads the checkpoints that the original saved, without trusting them.

Besides the state dict they hold an argparse.Namespace and objects of the original's classes, which
`torch.load(weights_only=True)` refuses. A pickle can call whatever it names. Here it can name only
BUILDERS; every other name becomes an object that ignores all that is done to it.

This module is the `pickle_module` that `torch.load` asks for.
"""

import functools
import os
import pickle
import sys
from collections import OrderedDict
from typing import BinaryIO

import torch

BUILDERS = {("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter}


class _Inert:
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


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        builder = BUILDERS.get((module, name))
        # A new object each time, since a pickle can set attributes of what it names.
        return functools.partial(builder) if builder else _Inert


def load(file: BinaryIO, **options):
    return Unpickler(file, **options).load()


def read(path: str | os.PathLike):
    """The tensors, dicts, lists and numbers that torch.save wrote to `path`; the rest is inert.

    Only for files that `torch.load(weights_only=True)` refused with an UnpicklingError: it knows
    archives of TorchScript, which may run code, by another error. A damaged file can raise any.
    """
    return torch.load(path, map_location="cpu", pickle_module=sys.modules[__name__],
                      weights_only=False)
