"""What miners share: who is a positive or a negative of whom, and draws that wait for no device.

Draws go through integers: cumulative sums of integers are exact, the same on every device, and
allowed under torch's deterministic algorithms, and a weight of zero is never drawn. (A tensor for
`torch.multinomial` must not hold a row of zeros, and it costs ten times as much.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from utilities.geometry import log_sphere_density

# Weights in [0, 1] as integers: resolves 1e-12, and 2**23 of them add up without overflow.
ONE = 2**40


def relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (B,) -> (B, B) bool positives (same label, another row) and negatives."""
    same = labels[:, None] == labels
    return same.clone().fill_diagonal_(False), ~same


def draw(weights: Tensor) -> tuple[Tensor, Tensor]:
    """weights (T, B) bool or int64 -> per row, a column with probability ~ weight, (T,) int64.

    Also (T,) bool: whether the row has a weight above zero; where it has none the column means
    nothing, but is one.
    """
    (columns,), found = draw_several(weights, 1)
    return columns, found


def draw_several(weights: Tensor, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """As `draw`, n times with replacement: n tensors (T,) int64, and (T,) bool."""
    sums = weights.cumsum(1, dtype=torch.int32 if weights.dtype == torch.bool else torch.int64)
    totals = sums[:, -1]
    uniform = torch.rand((n, len(sums)), dtype=torch.float64, device=weights.device)
    thresholds = (uniform * totals).to(sums.dtype)
    return columns_above(sums, thresholds.T.contiguous()).unbind(1), totals > 0


def columns_above(sums: Tensor, thresholds: Tensor) -> Tensor:
    """Per row and threshold the first column whose sum is above it, or the last if none is.

    sums (T, B) of one integer dtype with thresholds (T, n); sums do not fall along a row.
    -> (T, n) int64.
    """
    return torch.searchsorted(sums, thresholds, right=True).clamp_(max=sums.shape[1] - 1)


def prefer(candidates: Tensor, fallback: Tensor) -> Tensor:
    """(T, B) bool twice -> each row of `candidates`, or of `fallback` where it has none."""
    return torch.where(candidates.any(1, keepdim=True), candidates, fallback)


def inverse_density(d: Tensor, dim: int, candidates: Tensor, *, lower_cutoff: float) -> Tensor:
    """Weights ~ 1/q(max(d, lower_cutoff)) of the candidates, for `draw`: (T, B) int64.

    d (T, B) distances of unit vectors in `dim` dimensions; candidates (T, B) bool. The log-weights
    are shifted by the maximum of each row's candidates, whose weight becomes ONE.
    """
    log_q = log_sphere_density(d.clamp(min=lower_cutoff), dim).masked_fill_(~candidates, torch.inf)
    smallest = log_q.amin(1, keepdim=True).clamp_(max=torch.finfo(d.dtype).max)
    return torch.sub(smallest, log_q, out=log_q).exp_().mul_(ONE).long()
