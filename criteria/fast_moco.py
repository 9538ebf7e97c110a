"""DaNCE: distance-weighted noise contrast (Milbich et al. 2020, arXiv 2004.13458, section 3.2).

    L = mean_i CE([q_i.k_i, w_i1 q_i.m_1, ..., w_iK q_i.m_K] / t, 0),   w_ij ~ 1 / q(d_ij)

with q(d) the density of distances on the unit sphere and d_ij = |q_i - m_j|, clamped from below at
the lower cutoff. Beyond the upper cutoff w is 0. The weights are constants for autograd. Queries,
keys and queue are unit vectors. `--diva_dance` chooses the form:

    released    the weights of each queue entry sum to 1 over the queries of the batch; before that,
                weights below 1e-45 of the largest in the matrix are raised to 1e-45 of it
    fixed       the paper's: the weights of each query sum to 1 over the queue
    weighted    ours: the weights of each query have the mean 1 over the queue and multiply the
                exponentials, so that the negatives' logits are q_i.m_j / t + log w_ij

In all, weights that would all be 0 are equal instead; `weighted` is then `moco`. In the first two
forms a weight below 1 makes its logit small beside q.k / t, which leaves no gradient at a low
temperature; in the third it shifts the logit and leaves its scale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from criteria import moco
from utilities.geometry import log_sphere_density

LOG_FLOOR = math.log(1e-45)


class Criterion(moco.Criterion):
    def __init__(self, queue_size: int, embed_dim: int, *, temperature: float, lr: float | None,
                 lower_cutoff: float, upper_cutoff: float, dance: str):
        super().__init__(queue_size, embed_dim, temperature=temperature, lr=lr)
        self.lower_cutoff, self.upper_cutoff, self.dance = lower_cutoff, upper_cutoff, dance

    @staticmethod
    def more_arguments(opt) -> dict:
        return {"lower_cutoff": opt.diva_moco_lower_cutoff,
                "upper_cutoff": opt.diva_moco_upper_cutoff, "dance": opt.diva_dance}

    def negative_logits(self, queries: Tensor, temperature: Tensor) -> Tensor:
        """queries (B, D), divided by the temperature -> (B, K)."""
        logits = super().negative_logits(queries, temperature)
        similarities = logits.detach() * temperature.detach()
        if self.dance == "weighted":
            log_w = F.log_softmax(self.log_weights(similarities), self.summed)
            return logits + log_w + math.log(logits.shape[1])
        return logits * self.weights(similarities)

    @property
    def summed(self) -> int:
        """The dimension of (B, K) over which weights are normalised."""
        return 0 if self.dance == "released" else 1

    def weights(self, similarities: Tensor) -> Tensor:
        """q.m (B, K) -> w (B, K) with the sum 1, constants for autograd."""
        return F.softmax(self.log_weights(similarities), self.summed)

    def log_weights(self, similarities: Tensor) -> Tensor:
        """q.m (B, K) -> log w (B, K), up to a constant in each sum.

        The floor 1e-45 is a subnormal number, which some hardware flushes to zero, so weights are
        kept as logarithms until a softmax normalises them. Those below e^-80 of the largest in
        their sum are raised to that, because processors are slow with subnormal numbers. Operations
        are in place and without masks, which would take most of the time.
        """
        d2 = torch.rsub(similarities, 2, alpha=2).clamp_(min=self.lower_cutoff**2)
        log_q = log_sphere_density(d2, self.memory_queue.shape[1])
        smallest = log_q.amin(1, keepdim=True) if self.summed else log_q.min()
        log_w = torch.sub(smallest, log_q, out=log_q)
        log_w.sub_(d2.sub_(self.upper_cutoff**2).clamp_(min=0), alpha=1e30)
        floor = (log_w.amax(self.summed, keepdim=True) - 80).clamp_(min=LOG_FLOOR)
        return log_w.clamp_(min=floor)
