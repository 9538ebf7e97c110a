"""Sums and means over the valid entries of tensors whose size depends on the batch size alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the `values` (T,) that are `valid` (T,) bool; a zero with a gradient when none is.

    What is not valid may be infinite.
    """
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """log sum exp over the entries of each row in `mask`: (T, N), (T, N) bool -> (T,).

    A row without any gives -inf, with a gradient of zero.
    """
    return values.masked_fill(~mask, -torch.inf).logsumexp(1)


def log_one_plus_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum exp) over the entries of each row in `mask`; zero for a row without any."""
    return F.pad(values.masked_fill(~mask, -torch.inf), (1, 0)).logsumexp(1)
