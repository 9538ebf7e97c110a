"""The scaling of the loss that fp16 needs, around the backward pass and the optimiser's step.

Small gradients of a network that computes in fp16 would become zero, so the loss is multiplied by a
large factor before the backward pass and the gradients are divided by it before the step. A step
whose scaled gradients overflow is skipped, and the factor is lowered.
"""

from itertools import chain

import torch
from torch import Tensor

from utilities.distributed import ALONE, Alone


class LossScaling:
    """Backward passes and steps of one training; `scaler` holds the state. Without fp16 the factor
    is always 1, and no step is skipped."""

    def __init__(self, precision: str, device: torch.device, processes: Alone = ALONE):
        """precision: what `--precision` says."""
        self.processes = processes
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.one = torch.ones((), device=device)

    def backward(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Replaces the gradients by those of `loss`, of all processes, unscaled. The first two
        groups of the optimiser hold the network's parameters."""
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        groups = [group["params"] for group in optimiser.param_groups]
        self.processes.sum_gradients([*chain(*groups[:2])], [*chain(*groups[2:])])
        self.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> Tensor | None:
        """The optimiser's step. Returns a bool on the device: whether the loss was scaled up, so
        that gradients may have overflowed for this reason alone; None without fp16."""
        scaled_up = self.scaler.scale(self.one) > 1 if self.scaler.is_enabled() else None
        self.scaler.step(optimiser)
        self.scaler.update()
        return scaled_up
