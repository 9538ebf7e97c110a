"""One pass over a split, and every evaltype derived from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import metrics
from evaluation import evaltypes
from utilities.errors import RunError
from utilities.geometry import finite_rows

ROUNDING = 2e-6     # by which float32 misses the length 1 of what was normalised


def embed(network: nn.Module, loader, features: Sequence[str], *, epoch: int = 0,
          device: torch.device | str | None = None) -> Tensor:
    """The heads `features` of every image of `loader`'s dataset, in its order, side by side.

    device: where the result goes, by default where the network computes. Returns (N, sum of the
    heads' widths) float32, one tensor that is allocated once. The network computes in evaluation
    mode; its modules are then in their earlier modes.
    RunError, naming the first image, when an embedding is not finite.
    """
    n_images, embeddings, done = len(loader.dataset), None, 0
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch in tqdm(loader.epoch(epoch), "Embedding", len(loader), leave=False, disable=None,
                          unit="batch"):
            with torch.inference_mode():
                heads, _ = network(batch.images)
                rows = torch.cat([heads[feature] for feature in features], dim=1)
            if embeddings is None:  # outside inference mode, so that others may write into it
                embeddings = torch.empty(n_images, rows.shape[1], device=rows.device)
            embeddings[done:done + len(rows)] = rows
            done += len(rows)
    finally:
        for module, mode in modes.items():
            module.training = mode
    assert done == n_images, f"the loader gave {done} of {n_images} images"
    finite = finite_rows(embeddings)
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
    return F.normalize(mixed, dim=1, out=mixed) if normalize else mixed


def searches(embeddings: Tensor, names: Sequence[str], features: Sequence[str], *,
             normalize: bool) -> dict[str, Callable]:
    """{evaltype: what finds its neighbours, for `metrics.compute`}, for those of the evaltypes
    `names` whose neighbours can be found together: when there are two or more, in one pass.

    These only weight columns of the embeddings: a feature, and Combined unless normalising it once
    more would not scale every row by the same factor, that is unless its heads have length 1.
    """
    heads = embeddings.view(len(embeddings), len(features), -1)
    away = (heads.norm(dim=2) - 1).abs().amax(0).tolist()
    unit = {feature for feature, most in zip(features, away, strict=True) if most < ROUNDING}
    weights = {}
    for name in names:
        mode, of, numbers = evaltypes.parse(name, features)
        if mode == "single" or (mode == "Combined" and (not normalize or unit.issuperset(of))):
            by_feature = dict(zip(of, numbers, strict=True))
            of_heads = torch.tensor([by_feature.get(feature, 0.0) for feature in features])
            weights[name] = of_heads.repeat_interleave(heads.shape[2]).to(embeddings.device)
    return metrics.searches(embeddings, weights) if len(weights) > 1 else {}
