"""The embedding of every evaltype, derived from those of the heads."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from evaluation import evaltypes


def derive(embeddings: Tensor, evaltype: str, features: Sequence[str], *,
           normalize: bool) -> Tensor:
    """The embedding `evaltype` of embeddings (N, F * D) of `features`, side by side.

    A feature: its head, (N, D). `Combined_a_b-wa-wb`: [wa a, wb b], (N, 2 D). `Sum_a_b-wa-wb`:
    wa a + wb b, (N, D). The last two are L2-normalised again when `normalize`, that is when the
    architecture normalises its heads.
    """
    heads = dict(zip(features, embeddings.chunk(len(features), dim=1), strict=True))
    mode, names, weights = evaltypes.parse(evaltype, features)
    if mode == "single":
        return heads[names[0]].contiguous()
    width = heads[names[0]].shape[1]
    n = embeddings.shape[0]     # len would fix the batch size in an exported network
    mixed = embeddings.new_zeros(n, width * (len(names) if mode == "Combined" else 1))
    parts = mixed.split(width, 1) if mode == "Combined" else [mixed] * len(names)
    for name, weight, part in zip(names, weights, parts, strict=True):
        part.add_(heads[name], alpha=weight)
    return F.normalize(mixed, dim=1, out=mixed) if normalize else mixed
