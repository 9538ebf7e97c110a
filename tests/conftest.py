"""Fixtures that every folder of tests uses."""

import json
import os
from pathlib import Path

# More where they are asked for; then also in the processes that a test starts, since rounding
# depends on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
# Read once per process, by the first product on a GPU; --deterministic needs it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def make_opt(tmp_path):
    """make_opt("--loss", "margin", ...) -> what `parameters.read_arguments` makes of it.

    Paths point below tmp_path unless given.
    """
    from parameters import read_arguments

    def make(*argv):
        paths = ["--source_path", str(tmp_path / "data"), "--save_path", str(tmp_path / "runs")]
        return read_arguments(paths + [str(argument) for argument in argv])

    return make


@pytest.fixture(scope="session")
def golden():
    """golden("criteria") -> (dict of torch tensors, the JSON beside them)."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        return tensors, json.loads((GOLDEN / f"{name}.json").read_text())

    return load


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    np.random.seed(0)
    torch.manual_seed(0)


class Waiting(TorchDispatchMode):
    """Refuses whatever a GPU would have to answer before Python goes on."""

    REFUSED = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal",
                         "_unique", "_unique2", "unique_dim", "unique_consecutive", "multinomial"})

    METHODS = ("cpu", "numpy", "tolist", "__array__")

    def __enter__(self):
        attributes = vars(torch.Tensor)     # without inherited ones
        self.originals = {method: attributes[method] for method in self.METHODS
                          if method in attributes}
        for method in self.METHODS:
            setattr(torch.Tensor, method, self.refuse)
        return super().__enter__()

    def __exit__(self, *error):
        for method in self.METHODS:
            if method in self.originals:
                setattr(torch.Tensor, method, self.originals[method])
            else:
                delattr(torch.Tensor, method)
        return super().__exit__(*error)

    @staticmethod
    def refuse(*args, **kwargs):
        raise AssertionError("moves data to the host")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, "indexing by a boolean mask waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def without_waiting():
    """A context in which nothing may wait for the device or move data to the host."""
    return Waiting()


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
