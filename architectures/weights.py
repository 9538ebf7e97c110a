"""Files of weights: fetched, read without running anything in them, fitted to a network."""

import os
import pickle
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from architectures import TIMM, backbones, guest, original, parse
from utilities.errors import UserError, refuse
from utilities.files import fault

TIMEOUT = 30        # seconds without an answer
WEIGHTS = "a state dict saved by torch.save"
SAFE = ".safetensors"
HEAD = re.compile(r"model\.last_linear\.(\w+)\.(?:weight|bias)")   # in a state dict of a Network
TRUNK = "model.timm."       # begins the keys of timm's models there
# `denselayer1.norm.1.weight`, as older files have it, is `denselayer1.norm1.weight` now.
OLDER_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class Checkpoint(NamedTuple):
    """What a file of weights holds.

    tensors: the state dict. options: those of the run that wrote it, none in other files.
    trained_on: {dataset's name: names of the classes it was trained on}, None in files without
    them, the original's among them, and where they are damaged.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any]
    trained_on: dict[str, list[str]] | None


def initialise(network: nn.Module, name: str, path: str | None, size: int) -> None:
    """Gives a Network with the backbone `name` for images of size x size pixels the weights that
    its training starts from: those of a run where the file `path` is its checkpoint, otherwise
    ImageNet's, or what timm publishes, from `path` or fetched.

    Classifiers are left out. UserError where the file is missing or does not fit.
    """
    own_heads = {key: tensor for key, tensor in network.state_dict().items() if feature_of(key)}
    if path:
        flag, source = "--weights_path", repr(path)
        checkpoint = read_checkpoint(path, flag, f"{WEIGHTS}, or a run's checkpoint")
        if any(map(feature_of, checkpoint.tensors)):
            return continue_from(checkpoint, source, network, name, size, own_heads)
        tensors = checkpoint.tensors
    elif name.startswith(TIMM):
        flag, source, tensors = "--arch", *guest.published_weights(name, size)
    else:
        url = backbones.weights_url(name)
        flag, source, tensors = "--arch", url, fetch(url, name)
    if "densenet" in name:
        tensors = {OLDER_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
    if name.startswith(TIMM):
        tensors = guest.fitting(name, size, tensors, network.model.timm)
        tensors = {f"timm.{key}": tensor for key, tensor in tensors.items()}
    fit(network.model,
        tensors | {key.removeprefix("model."): tensor for key, tensor in own_heads.items()},
        flag=flag, source=source, dropped=backbones.DROPPED)


def continue_from(checkpoint: Checkpoint, source: str, network: nn.Module, name: str, size: int,
                  own_heads: dict[str, Tensor]) -> None:
    """Gives `network` the trunk of a run's `checkpoint`, and its heads where feature and size are
    those of `own_heads`; prints which. UserError where the backbone is not `name`."""
    trained = parse(str(checkpoint.options.get("arch", name))).backbone
    if trained != name:
        refuse("--weights_path", f"{source} holds a {trained}, but --arch asks for {name}",
               f"weights of {name}, or --arch {trained} with any suffixes")
    stored, wanted = sizes(checkpoint.tensors), sizes(own_heads)
    taken = [feature for feature in wanted if wanted[feature] == stored.get(feature)]
    tensors = {key: tensor for key, tensor in checkpoint.tensors.items()
               if feature_of(key) in (None, *taken)}
    tensors = resized(network, name, size, tensors)
    fit(network, own_heads | tensors, flag="--weights_path", source=source)
    network.trained_on = checkpoint.trained_on
    left = [f"head {feature} ({size} dimensions, not {wanted[feature]})" if feature in wanted else
            f"head {feature} (not among --diva_features)"
            for feature, size in stored.items() if feature not in taken]
    new = [f"head {feature}" for feature in wanted if feature not in taken]
    print(f"--weights_path: taken from {source}: "
          + ", ".join(["trunk", *(f"head {feature}" for feature in taken)])
          + "; not taken: " * bool(left) + ", ".join(left)
          + "; new: " + ", ".join([*new, "criteria", "optimiser"]), flush=True)


def resized(network: nn.Module, name: str, size: int, tensors: dict[str, Tensor]
            ) -> dict[str, Tensor]:
    """`tensors` of a Network like `network`, but perhaps for images of another size than `size`:
    where the backbone is timm's, position embeddings are resampled."""
    if not name.startswith(TIMM):
        return tensors
    trunk = {key.removeprefix(TRUNK): tensor for key, tensor in tensors.items()
             if key.startswith(TRUNK)}
    trunk = guest.fitting(name, size, trunk, network.model.timm)
    return ({key: tensor for key, tensor in tensors.items() if not key.startswith(TRUNK)}
            | {TRUNK + key: tensor for key, tensor in trunk.items()})


def feature_of(key: str) -> str | None:
    """The feature to whose head the entry `key` of a Network's state dict belongs."""
    match = HEAD.fullmatch(key)
    return match and match[1]


def sizes(tensors: dict[str, Tensor]) -> dict[str, int]:
    """{feature: dimensions of its embedding} of the heads in a Network's state dict."""
    return {feature: len(tensor) for key, tensor in tensors.items() if (feature := feature_of(key))}


def fetch(url: str, name: str) -> dict[str, Tensor]:
    """The state dict behind `url`, the weights of `name`, kept in torch.hub's cache. A download is
    compared with the hash in the file's name.

    UserError, with the alternatives, where the download fails.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not fault(cached):
        return read_checkpoint(
            cached, "--arch", f"{WEIGHTS}; delete the file to fetch it again").tensors
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return _tensors(torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True,
            progress=sys.stderr.isatty()))
    except Exception as error:      # the network, the disk, or an answer that is no such file
        refuse("--arch", f"the ImageNet weights of {name} could not be downloaded from {url} "
               f"({' '.join(str(error).split())})",
               "--weights_path with a copy of that file, or --not_pretrained")
    finally:
        socket.setdefaulttimeout(timeout)


def read_safetensors(path: str | os.PathLike, flag: str) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{flag}: {str(path)!r} needs a library that is not installed ({error}); "
                        "pip install safetensors") from error
    return load_file(path)


def read_checkpoint(path: str | os.PathLike, flag: str = "--checkpoint",
                    accepted: str = "a checkpoint with a network's state dict") -> Checkpoint:
    """What the file holds: a state dict, at the top or under `state_dict` or `model`, and what its
    run added.

    Nothing in the file is run (see `architectures.original`). The original holds some tensors a
    second time as `layer_blocks.*`, which are left out. UserError, naming `flag`, for a file
    that cannot be read or has no state dict.
    """
    if wrong := fault(path, "file"):
        refuse(flag, f"{str(path)!r} {wrong}", accepted)
    try:
        try:
            content = (read_safetensors(path, flag) if str(path).endswith(SAFE) else
                       torch.load(path, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError:
            content = original.read(path)
        tensors = _tensors(content)
    except UserError:
        raise
    except OSError as error:
        refuse(flag, f"{str(path)!r} cannot be read ({error.strerror or error})", accepted)
    except Exception:      # a damaged or foreign file can fail in any way
        refuse(flag, f"cannot read tensors from {str(path)!r}", accepted)
    options, data = (_mapping(content.get(name)) for name in ("options", "data"))
    return Checkpoint({key: tensor for key, tensor in tensors.items()
                       if not key.startswith("layer_blocks.")},
                      options, _names(data.get("trained_on")))


def _names(value) -> dict[str, list[str]] | None:
    """The names of classes by dataset; None for what is of another form, so damaged or absent."""
    whole = isinstance(value, Mapping) and all(
        isinstance(dataset, str) and isinstance(names, list)
        and all(isinstance(name, str) for name in names) for dataset, names in value.items())
    return dict(value) if whole else None


def _mapping(value) -> dict:
    return dict(value) if isinstance(value, Mapping) else {}


def _tensors(content) -> dict[str, Tensor]:
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not (isinstance(content, Mapping) and content and all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())):
        raise TypeError("not a state dict")
    return content


def fit(module: nn.Module, tensors: dict[str, Tensor], *, flag: str, source: str,
        dropped: tuple[str, ...] = ()) -> None:
    """Loads `tensors` into `module`, leaving out `dropped` submodules that it does not have.

    UserError, naming `flag` and the first difference, where names or shapes differ, and naming the
    first tensor whose numbers are not all finite.
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
    if broken := [name for name, tensor in state.items()
                  if tensor.is_floating_point() and not tensor.isfinite().all()]:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        refuse(flag, f"{source} holds NaN or infinity in {broken[0]}{more}",
               "weights that are finite")
