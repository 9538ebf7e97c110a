"""Mean cosine distances within and between classes ("Revisiting Training Strategies", Roth et al.
2020, arXiv 2002.08473).

    intra = mean over classes of the mean over pairs of its images of 1 - cos
    inter = mean over pairs of classes of 1 - cos between the means of their features

and `intra_over_inter`, the density of the embedding space. Sums over pairs follow from
|sum_i u_i|^2 = n + sum_{i != j} u_i.u_j. A class of one image has no pair and is left out (the
original gives it the largest intra distance of the others); without any pair the distance is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TAKES = "features"
ROWS = 8192


def measure(features: Tensor, labels: Tensor, form: str) -> float:
    """features (N, D), labels (N,) int64; form: intra, inter or intra_over_inter."""
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    if form == "intra":
        return _intra(features, classes, sizes)
    inter = _inter(features, classes, sizes)
    if form == "inter":
        return inter
    return _intra(features, classes, sizes) / inter if inter else 0.0


def _intra(features: Tensor, classes: Tensor, sizes: Tensor) -> float:
    units, square = _class_sums(features, classes, len(sizes), normalize=True)
    several = sizes > 1
    pairs = (sizes * (sizes - 1))[several]
    cosine = (units.square().sum(1) - square)[several] / pairs
    return float((1 - cosine).clamp(min=0).mean()) if len(pairs) else 0.0


def _inter(features: Tensor, classes: Tensor, sizes: Tensor) -> float:
    means = F.normalize(_class_sums(features, classes, len(sizes), normalize=False)[0])
    n = len(means)
    cosine = (means.sum(0).square().sum() - means.square().sum()) / max(1, n * (n - 1))
    return max(0.0, float(1 - cosine)) if n > 1 else 0.0


def _class_sums(features: Tensor, classes: Tensor, n: int, normalize: bool):
    """Each class's sum of rows (n, D), and of their squared norms (n,), in float64."""
    sums = torch.zeros(n, features.shape[1], dtype=torch.float64, device=features.device)
    squares = torch.zeros(n, dtype=torch.float64, device=features.device)
    for rows, labels in zip(features.split(ROWS), classes.split(ROWS), strict=True):
        rows = F.normalize(rows.double()) if normalize else rows.double()
        sums.index_add_(0, labels, rows)
        squares.index_add_(0, labels, rows.square().sum(1))
    return sums, squares
