"""One pass over a split, and every evaltype derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from evaluation import evaltypes
from utilities.errors import RunError


def embed(network: nn.Module, loader, features: Sequence[str],
          autocast: Callable = contextlib.nullcontext, *, epoch: int = 0,
          device: torch.device | str | None = None) -> Tensor:
    """The heads `features` of every image of `loader`'s dataset, in its order, side by side.

    autocast: () -> context of the forward pass; device: where the result goes, by default where the
    network computes. Returns (N, sum of the heads' widths) float32, one tensor that is allocated
    once. The network computes in evaluation mode; its modules are then in their earlier modes.
    RunError, naming the first image, when an embedding is not finite.
    """
    n_images, embeddings, done = len(loader.dataset), None, 0
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch in tqdm(loader.epoch(epoch), "Embedding", len(loader), leave=False, disable=None,
                          unit="batch"):
            with torch.inference_mode(), autocast():
                heads, _ = network(batch.images)
                rows = torch.cat([heads[feature].float() for feature in features], dim=1)
            if embeddings is None:  # outside inference mode, so that others may write into it
                embeddings = torch.empty(n_images, rows.shape[1], device=rows.device)
            embeddings[done:done + len(rows)] = rows
            done += len(rows)
    finally:
        for module, mode in modes.items():
            module.training = mode
    assert done == n_images, f"the loader gave {done} of {n_images} images"
    finite = embeddings.isfinite().all(1)
    if not finite.all():
        path = loader.dataset.paths[int(finite.int().argmin())]
        raise RunError(f"the embeddings of {int((~finite).sum()):,} of {n_images:,} images are not "
                       f"finite, that of {path!r} first")
    return embeddings if device is None else embeddings.to(device)


def view(embeddings: Tensor, evaltype: str, features: Sequence[str], *,
         normalize: bool) -> Tensor:
    """What `evaltype` makes of embeddings (N, F * D) of `features`, as `embed` lays them out.

    A feature: its head, (N, D). `Combined_a_b-wa-wb`: [wa a, wb b], (N, 2 D). `Sum_a_b-wa-wb`:
    wa a + wb b, (N, D). The last two are L2-normalised again when `normalize`, that is when the
    architecture normalises its heads.
    """
    heads = dict(zip(features, embeddings.chunk(len(features), dim=1), strict=True))
    mode, names, weights = evaltypes.parse(evaltype, features)
    if mode == "single":
        return heads[names[0]].contiguous()
    parts = [weight * heads[name] for name, weight in zip(names, weights, strict=True)]
    mixed = torch.cat(parts, dim=1) if mode == "Combined" else torch.stack(parts).sum(0)
    return F.normalize(mixed, dim=1) if normalize else mixed
