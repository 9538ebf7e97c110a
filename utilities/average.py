"""`--ema`: the average of a network over the steps of its training.

    average <- decay * average + (1 - decay) * network,   at first the network before training

(Polyak and Juditsky 1992, with exponential weights.) BatchNorm's running statistics belong to the
weights and are averaged like them; counts are copied.
"""

import copy
from itertools import chain

import torch
from torch import nn


class Average:
    """Is updated after each step of `optimiser`; with a decay of 0 it is the network itself.

    network: what is evaluated. parts: what a checkpoint must hold beside it, by name.
    """

    def __init__(self, network: nn.Module, decay: float, optimiser: torch.optim.Optimizer):
        self.network, self.parts = network, {}
        if decay:
            self.network = copy.deepcopy(network).requires_grad_(False).eval()
            self.parts = {"trained": network}
            optimiser.register_step_post_hook(lambda *_: move(self.network, network, 1 - decay))


@torch.no_grad()
def move(average: nn.Module, network: nn.Module, share: float) -> None:
    """Moves the parameters and buffers of `average` by `share` of the way to those of `network`."""
    pairs = list(zip(chain(average.parameters(), average.buffers()),
                     chain(network.parameters(), network.buffers()), strict=True))
    numbers, counts = ([pair for pair in pairs if pair[0].is_floating_point() == floating]
                       for floating in (True, False))
    torch._foreach_lerp_(*map(list, zip(*numbers, strict=True)), share)
    if counts:
        torch._foreach_copy_(*map(list, zip(*counts, strict=True)))
