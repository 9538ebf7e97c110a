"""Files of weights: fetched, read without running anything in them, fitted to a network."""

import contextlib
import http.client
import os
import pickle
import re
import shutil
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from tqdm import tqdm

from architectures import backbones, original
from utilities.errors import refuse
from utilities.files import fault

TIMEOUT = 30        # seconds without an answer
WEIGHTS = "a state dict saved by torch.save"
# `denselayer1.norm.1.weight`, as older files have it, is `denselayer1.norm1.weight` now.
OLDER_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def initialise(model: nn.Module, name: str, path: str | None) -> None:
    """Gives the backbone `name` its ImageNet weights, from the file `path` or else fetched.

    Classifiers in the file are left out. UserError where the file is missing or does not fit.
    """
    if path:
        flag, source, tensors = "--weights_path", repr(path), read_state_dict(path)
    else:
        url = backbones.weights_url(name)
        flag, source, tensors = "--arch", url, fetch(url, name)
    if "densenet" in name:
        tensors = {OLDER_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
    fit(model, tensors, flag=flag, source=source, dropped=backbones.DROPPED)


def fetch(url: str, name: str) -> dict[str, Tensor]:
    """The state dict behind `url`, the weights of `name`, kept in torch.hub's cache.

    A file enters the cache only once it is whole and has been read. UserError, with the
    alternatives, where the download fails.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not fault(cached):
        return read_state_dict(cached, "--arch", f"{WEIGHTS}; delete the file to fetch it again")
    partial = cached.with_name(f"{cached.name}.{uuid.uuid4().hex}.partial")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        _download(url, partial)
        tensors = _tensors(torch.load(partial, map_location="cpu", weights_only=True))
        os.replace(partial, cached)
    except Exception as error:      # the network, the disk, or an answer that is no such file
        arrived = not isinstance(error, (OSError, http.client.HTTPException))
        reason = "what came is no file of weights" if arrived else " ".join(str(error).split())
        refuse("--arch", f"the ImageNet weights of {name} could not be downloaded from {url} "
               f"({reason})",
               "--weights_path with a copy of that file, or --not_pretrained")
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return tensors


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(path, "xb") as file:
        expected = int(response.headers.get("Content-Length") or 0)
        with tqdm.wrapattr(file, "write", total=expected or None, disable=None,
                           desc=Path(urlparse(url).path).name) as watched:
            shutil.copyfileobj(response, watched)
        if expected and file.tell() != expected:
            raise OSError(f"{file.tell()} of {expected} bytes came")


def read_state_dict(path: str | os.PathLike, flag: str = "--weights_path",
                    accepted: str = WEIGHTS) -> dict[str, Tensor]:
    """The state dict in a file of tensors and plain types, at the top or under `state_dict`.

    UserError, naming `flag`, for any other file.
    """
    return _read(path, flag, accepted,
                 lambda: torch.load(path, map_location="cpu", weights_only=True))[0]


def read_checkpoint(path: str | os.PathLike, flag: str = "--checkpoint"
                    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict of the network, options it was trained with, none in a file of the original).

    Nothing in the file is run (see `architectures.original`). The original holds some tensors a
    second time as `layer_blocks.*`, which are left out. UserError, naming `flag`, for a file that
    is no checkpoint.
    """
    def load():
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return original.load(path)

    tensors, content = _read(path, flag, "a checkpoint with a network's state dict", load)
    options = content.get("options")
    return ({key: value for key, value in tensors.items() if not key.startswith("layer_blocks.")},
            dict(options) if isinstance(options, Mapping) else {})


def _read(path, flag: str, accepted: str, load) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """(the state dict in what `load` returns, all that it returns); UserError for any failure."""
    if wrong := fault(path, "file"):
        refuse(flag, f"{str(path)!r} {wrong}", accepted)
    try:
        content = load()
        return _tensors(content), content
    except Exception:      # a damaged or foreign file can fail in any way
        refuse(flag, f"cannot read tensors from {str(path)!r}", accepted)


def _tensors(content) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not (isinstance(content, Mapping) and content and all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())):
        raise TypeError("not a state dict")
    return content


def fit(module: nn.Module, tensors: dict[str, Tensor], *, flag: str, source: str,
        dropped: tuple[str, ...] = ()) -> None:
    """Loads `tensors` into `module`, leaving out `dropped` submodules that it does not have.

    UserError, naming `flag` and the first difference, where names or shapes differ.
    """
    state = module.state_dict()
    for name in [n for n in tensors if n.split(".")[0] in dropped and n not in state]:
        del tensors[name]
    wrong = [f"{name} is {tuple(tensors[name].shape)}, not {tuple(state[name].shape)}"
             for name in state if name in tensors and tensors[name].shape != state[name].shape]
    if not wrong:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
        wrong = [f"{name} is missing" for name in missing]
        wrong += [f"{name} is not the network's" for name in unexpected]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        refuse(flag, f"{source} does not fit the network: {wrong[0]}{more}",
               "weights of the same network")
