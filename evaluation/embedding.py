"""One pass over a split, and every evaltype derived from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from evaluation import evaltypes
from utilities.errors import RunError
from utilities.geometry import unusable_rows


def embed(network: nn.Module, loader, features: Sequence[str] | None, *, epoch: int = 0,
          device: torch.device | str | None = None) -> Tensor:
    """The heads `features` of every image of `loader`'s dataset, in its order, side by side; with
    features None the trunk.

    device: where the result goes, by default where the network computes. Returns (N, sum of the
    widths) float32, one tensor that is allocated once. The network computes in evaluation mode; its
    modules are then in their earlier modes.
    RunError, naming the first image, when an embedding is not finite or too large to be compared.
    """
    n_images, embeddings, done = len(loader.dataset), None, 0
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch in tqdm(loader.epoch(epoch), "Embedding", len(loader), leave=False, disable=None,
                          unit="batch"):
            with torch.inference_mode():
                heads, trunk = network(batch.images)
                rows = torch.cat([trunk] if features is None else
                                 [heads[feature] for feature in features], dim=1)
            if embeddings is None:  # outside inference mode, so that others may write into it
                embeddings = torch.empty(n_images, rows.shape[1], device=rows.device)
            embeddings[done:done + len(rows)] = rows
            done += len(rows)
    finally:
        for module, mode in modes.items():
            module.training = mode
    assert done == n_images, f"the loader gave {done} of {n_images} images"
    rows, why = unusable_rows(embeddings)
    if len(rows):
        raise RunError(f"the embeddings of {len(rows):,} of {n_images:,} images {why}, that of "
                       f"{loader.dataset.paths[int(rows[0])]!r} first")
    return embeddings if device is None else embeddings.to(device)


def derive(embeddings: Tensor, evaltype: str, features: Sequence[str], *,
           normalize: bool) -> Tensor:
    """The embedding `evaltype` of embeddings (N, F * D) of `features`, as `embed` lays them out.

    A feature: its head, (N, D). `Combined_a_b-wa-wb`: [wa a, wb b], (N, 2 D). `Sum_a_b-wa-wb`:
    wa a + wb b, (N, D). The last two are L2-normalised again when `normalize`, that is when the
    architecture normalises its heads.
    """
    heads = dict(zip(features, embeddings.chunk(len(features), dim=1), strict=True))
    mode, names, weights = evaltypes.parse(evaltype, features)
    if mode == "single":
        return heads[names[0]].contiguous()
    width = heads[names[0]].shape[1]
    mixed = embeddings.new_zeros(len(embeddings), width * (len(names) if mode == "Combined" else 1))
    parts = mixed.split(width, 1) if mode == "Combined" else [mixed] * len(names)
    for name, weight, part in zip(names, weights, parts, strict=True):
        part.add_(heads[name], alpha=weight)
    return F.normalize(mixed, dim=1, out=mixed) if normalize else mixed
