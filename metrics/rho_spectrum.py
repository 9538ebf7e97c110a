"""Spectral decay rho of the features ("Revisiting Training Strategies", Roth et al. 2020, arXiv
2002.08473).

    rho(Phi) = KL(U || S)

S: the singular values of the features, normalised to sum to 1; U: the uniform distribution of the
same size. `rho_spectrum@m` leaves out the |m| - 1 largest singular values; m < 0 gives KL(S || U),
m = 0 gives S itself, largest first. As in the original, the smallest of D singular values is left
out. A singular value of 0 counts as 1e-12 of the sum, so that the divergence stays finite.
"""

import math

import torch
from torch import Tensor

from utilities.errors import UserError

TAKES = "features"
ROWS = 8192
SMALLEST = 1e-12


def measure(features: Tensor, labels: Tensor, m: int):
    """features (N, D) -> the divergence; m = 0: the spectrum (at most D - 1,), a NumPy array.

    UserError where no singular value is left.
    """
    values = _singular_values(features)[max(0, abs(m) - 1):]
    if not len(values):
        raise UserError(f"--evaluation_metrics: 'rho_spectrum@{m}' leaves no singular value of "
                        f"{tuple(features.shape)} features; a smaller number is accepted")
    total = values.sum()
    spectrum = values / total if total else torch.full_like(values, 1 / len(values))
    if m == 0:
        return spectrum.cpu().numpy()
    log_ratio = spectrum.clamp(min=SMALLEST).log() + math.log(len(spectrum))
    weights = spectrum if m < 0 else torch.full_like(spectrum, -1 / len(spectrum))
    return float((weights * log_ratio).sum())


def _singular_values(features: Tensor) -> Tensor:
    """The min(N, D - 1) largest, in float64, as roots of the Gram matrix's eigenvalues."""
    dim = features.shape[1]
    gram = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
    for rows in features.split(ROWS):
        rows = rows.double()
        gram.addmm_(rows.T, rows)
    largest_first = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return largest_first[:min(len(features), dim - 1)]
