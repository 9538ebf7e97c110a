"""Sums and means over the valid entries of a tensor, without waiting for their number."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the `values` (T,) that are `valid` (T,) bool; when none is, a zero that can be
    backpropagated. Values that are not valid may be infinite."""
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """log sum exp of the values in each row where `mask` is true: (T, N), (T, N) bool -> (T,).

    A row in which it is nowhere true gives -inf, with a gradient of zero.
    """
    return values.masked_fill(~mask, -torch.inf).logsumexp(1)


def log_one_plus_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum exp), like `log_sum_exp`; zero for a row in which `mask` is nowhere true."""
    return F.pad(values.masked_fill(~mask, -torch.inf), (1, 0)).logsumexp(1)
