"""Rows that can be compared, unit vectors, Euclidean distances, densities on the unit sphere."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unusable_rows(x: Tensor) -> tuple[Tensor, str]:
    """x (N, D) float32 -> the indices (n,) of rows that cannot be compared, and what they are: not
    finite, or so large that squared distances overflow."""
    finite = x.amax(1).isfinite() & x.amin(1).isfinite()    # without a mask of x's size
    if not finite.all():
        return (~finite).nonzero()[:, 0], "are not finite"
    longest = torch.finfo(torch.float32).max ** 0.5 / 2
    return ((x.norm(dim=1) > longest).nonzero()[:, 0],
            "are so large that float32 does not hold their squared distances")


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """x / |x| along `dim`, any shape. NaN, which ends a run, where float32 does not hold the square
    of the norm (F.normalize gives 0 there)."""
    overflows = x.detach().norm(dim=dim, keepdim=True).isinf()
    return F.normalize(x, dim=dim).masked_fill(overflows, torch.nan)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """x (N, D), y (M, D) -> ||x_i - y_j||^2 (N, M), at least 0.

    By |x|^2 + |y|^2 - 2 x.y: one matrix product, nothing of size (N, M, D). Rounding is absolute,
    about 1e-7 of the largest squared norm in fp32, so equal rows may come out just above 0.
    """
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    return torch.addmm(norms_x[:, None] + norms_y, x, y.T, alpha=-2).clamp(min=0)


def distances(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """x (N, D), y (M, D) -> sqrt(max(||x_i - y_j||^2, eps)) (N, M).

    eps > 0 keeps the gradient finite (zero) where the rows are equal.
    """
    return squared_distances(x, y).clamp(min=eps).sqrt()


def paired_distance(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """x, y (..., T, D) -> sqrt(||x_t - y_t||^2 + eps) (..., T), as the margin loss computes it."""
    return ((x - y).square().sum(-1) + eps).sqrt()


def log_sphere_density(d2: Tensor, dim: int) -> Tensor:
    """log q(d) = (D - 2) log d + (D - 3)/2 log(1 - d^2/4), up to a constant, from d2 = d^2 of any
    shape.

    q is the density of the distance of two points drawn uniformly from the unit sphere in D = `dim`
    dimensions (Wu et al. 2017, arXiv 1706.07567, eq. 5). Both logarithms' arguments are at least
    1e-8, so values and gradients are finite for every d >= 0, also at 0 and from 2 on (where the
    original gives NaN). For every fp32 d^2 below 4, 1 - d^2/4 lies above that bound.
    """
    near = d2.clamp(min=1e-16).log()
    far = torch.rsub(d2, 1, alpha=0.25).clamp_(min=1e-8).log()
    return torch.add((dim - 2) / 2 * near, far, alpha=(dim - 3) / 2)
