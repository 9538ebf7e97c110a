"""One pass over a split, and every evaltype derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

import metrics
from evaluation import evaltypes
from utilities.errors import RunError

ROUNDING = 1e-6     # by which float32 misses the length 1 of what was normalised


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
    finite = embeddings.amax(1).isfinite() & embeddings.amin(1).isfinite()
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
    width = heads[names[0]].shape[1]
    mixed = embeddings.new_zeros(len(embeddings), width * (len(names) if mode == "Combined" else 1))
    parts = mixed.split(width, 1) if mode == "Combined" else [mixed] * len(names)
    for name, weight, part in zip(names, weights, parts, strict=True):
        part.add_(heads[name], alpha=weight)
    return mixed.div_(mixed.norm(dim=1, keepdim=True).clamp_(min=1e-12)) if normalize else mixed


def searches(embeddings: Tensor, names: Sequence[str], features: Sequence[str], *,
             normalize: bool) -> dict[str, Callable]:
    """{evaltype: k -> blocks of (rows, neighbours)} among embeddings, for those of the evaltypes
    `names` whose neighbours can be found together.

    These only weight columns of the embeddings: all but Sum, as long as normalising them once more
    scales every row by the same factor, that is with heads of length 1.
    """
    heads = embeddings.view(len(embeddings), len(features), -1)
    weights = {}
    for name in names:
        mode, of, numbers = evaltypes.parse(name, features)
        if mode != "Sum":
            by_feature = dict(zip(of, numbers, strict=True))
            weights[name] = torch.tensor([by_feature.get(feature, 0.0) for feature in features],
                                         device=embeddings.device)
    scaled_alike = not normalize or bool(((heads.norm(dim=2) - 1).abs() < ROUNDING).all())
    if len(weights) < 2 or not scaled_alike:
        return {}
    return metrics.searches(embeddings, {name: of_heads.repeat_interleave(heads.shape[2])
                                         for name, of_heads in weights.items()})
