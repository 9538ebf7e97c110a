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

from utilities.errors import refuse

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"    # lets torch.load refuse any pickle module
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
        """Ignores attributes that a pickle sets. Without this method they would be set, even those
        of the class itself."""

    def __setitem__(self, key, value):
        pass

    append = extend = add = __call__


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        builder = BUILDERS.get((module, name))
        # A pickle can set attributes of a function that it names, here only those of a new partial.
        return functools.partial(builder) if builder else _Inert


def load(file: BinaryIO, **options):
    return Unpickler(file, **options).load()


def read(path: str | os.PathLike):
    """The tensors, dicts, lists and numbers that torch.save wrote to `path`; the rest is inert.

    Only for files that `torch.load(weights_only=True)` refused with an UnpicklingError. It refuses
    TorchScript, whose code this would run, with a RuntimeError. A damaged file can raise any error;
    UserError where the environment forbids to read such files.
    """
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        refuse(FORCED, f"{os.environ[FORCED]!r} in the environment, but {str(path)!r} holds more "
               "than weights", "no such variable: nothing in the file is run")
    return torch.load(path, map_location="cpu", pickle_module=sys.modules[__name__],
                      weights_only=False)
