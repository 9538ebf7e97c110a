"""Numerical precision: fp32 for criteria and miners, autocast and scaling for networks."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def full_precision(function):
    """Decorates a method so that it computes in fp32 whatever surrounds it.

    Autocast is off inside; floating-point tensors among the arguments (also inside a dict) become
    float32. Integer and boolean tensors and everything else pass through.
    """

    def cast(value):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.float()
        if isinstance(value, dict):
            return {key: cast(entry) for key, entry in value.items()}
        return value

    @functools.wraps(function)
    def in_full_precision(self, *args, **kwargs):
        given = [*args, *kwargs.values()]
        given += [entry for value in given if isinstance(value, dict) for entry in value.values()]
        device_type = next((t.device.type for t in given if isinstance(t, Tensor)), "cpu")
        with torch.autocast(device_type, enabled=False):
            return function(self, *map(cast, args), **cast(kwargs))

    return in_full_precision


class Precision:
    """The networks' precision, chosen once: autocast, loss scaling and the optimiser's step.

    name: fp32, bf16 (autocast) or fp16 (autocast and a gradient scaler, which skips the steps whose
    scaled gradients overflow). With fp32 every part does nothing.
    """

    def __init__(self, name: str, device: torch.device):
        self.device_type = device.type
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self.one = torch.ones((), device=device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Gradients of `loss`, unscaled, in place of the old ones."""
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> Tensor | None:
        """The optimiser's step. Returns whether gradients may have overflown because the loss was
        scaled up, on the device; None where it never is."""
        scaled_up = self.scaler.scale(self.one) > 1 if self.scaler.is_enabled() else None
        self.scaler.step(optimiser)
        self.scaler.update()
        return scaled_up
