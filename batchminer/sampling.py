"""What miners share: positives and negatives of each row, and draws that never wait for the device.

Weights are integers, so that cumulative sums are exact on every device and deterministic, and a
weight of zero is never drawn. `torch.multinomial` refuses rows of zeros and is ten times slower.
"""

import torch
from torch import Tensor

from batchminer import Triplets
from utilities.geometry import log_sphere_density

# The weight 1 as an integer: weights resolve 1e-12, and 2**23 of them add up without overflow.
ONE = 2**40


def one_per_anchor(positives: Tensor, negatives: Tensor, valid: Tensor) -> Triplets:
    """Triplets of which row i of the batch is anchor i; all arguments (B,)."""
    return Triplets(torch.arange(len(valid), device=valid.device), positives, negatives, valid)


def relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (B,) -> (B, B) bool positives (same label, another row) and negatives."""
    same = labels[:, None] == labels
    return same.clone().fill_diagonal_(False), ~same


def draw(weights: Tensor) -> tuple[Tensor, Tensor]:
    """weights (T, B) bool or int64 -> for each row a column with probability ~ weight, (T,) int64;
    and (T,) bool, whether the row has a weight above zero. Where it has none, any column comes."""
    (columns,), possible = draw_several(weights, 1)
    return columns, possible


def draw_several(weights: Tensor, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Like `draw`, n times with replacement: n tensors (T,) int64, and (T,) bool."""
    sums = weights.cumsum(1, dtype=torch.int32 if weights.dtype == torch.bool else torch.int64)
    totals = sums[:, -1]
    uniform = torch.rand((n, len(sums)), dtype=torch.float64, device=weights.device)
    thresholds = (uniform * totals).to(sums.dtype)
    return columns_above(sums, thresholds.T.contiguous()).unbind(1), totals > 0


def columns_above(sums: Tensor, thresholds: Tensor) -> Tensor:
    """For each threshold of a row the first column whose sum exceeds it, or the last if none does:
    sums (T, B), which never decrease along a row, thresholds (T, n) of the same integer dtype ->
    (T, n) int64."""
    return torch.searchsorted(sums, thresholds, right=True).clamp_(max=sums.shape[1] - 1)


def prefer(candidates: Tensor, fallback: Tensor) -> Tensor:
    """Each row of `candidates` (T, B) bool, or that of `fallback` where it holds no candidate."""
    return torch.where(candidates.any(1, keepdim=True), candidates, fallback)


def inverse_density(d: Tensor, dim: int, candidates: Tensor, *, lower_cutoff: float) -> Tensor:
    """Weights ~ 1/q(max(d, lower_cutoff)) of the candidates, for `draw`: (T, B) int64.

    d (T, B) distances of unit vectors in `dim` dimensions; candidates (T, B) bool. The log-weights
    are shifted by the maximum of each row's candidates, whose weight becomes ONE. Candidates whose
    distance is NaN or infinite stay candidates, so that the loss shows what diverged.
    """
    log_q = log_sphere_density(d.clamp(min=lower_cutoff).square(), dim).nan_to_num_()
    log_q.masked_fill_(~candidates, torch.inf)
    smallest = log_q.amin(1, keepdim=True).clamp_(max=torch.finfo(d.dtype).max)
    return torch.sub(smallest, log_q, out=log_q).exp_().mul_(ONE).long()
