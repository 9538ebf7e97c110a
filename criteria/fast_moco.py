"""DaNCE: distance-weighted noise contrast (Milbich et al. 2020, arXiv 2004.13458, section 3.2).

    L = mean_i CE([q_i.k_i, w_i1 q_i.m_1, ..., w_iK q_i.m_K] / t, 0),   w_ij ~ 1 / q(d_ij)

with q(d) the density of distances on the unit sphere and d_ij = |q_i - m_j|, clamped from below at
the lower cutoff. Beyond the upper cutoff w is 0. The weights are constants for autograd. Queries,
keys and queue are unit vectors.

In the paper (`--diva_fixed`) the weights of each query sum to 1 over the queue. In the released
code, the default here, the weights of each queue entry sum to 1 over the queries of the batch;
before that, weights below 1e-45 of the largest in the matrix are raised to 1e-45 of it. In both,
weights that would all be 0 are equal instead.
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
                 lower_cutoff: float, upper_cutoff: float, per_query: bool):
        super().__init__(queue_size, embed_dim, temperature=temperature, lr=lr)
        self.lower_cutoff, self.upper_cutoff = lower_cutoff, upper_cutoff
        self.per_query = per_query

    @staticmethod
    def more_arguments(opt) -> dict:
        return {"lower_cutoff": opt.diva_moco_lower_cutoff,
                "upper_cutoff": opt.diva_moco_upper_cutoff, "per_query": opt.diva_fixed}

    def negative_logits(self, queries: Tensor, temperature: Tensor) -> Tensor:
        """queries (B, D), divided by the temperature -> (B, K)."""
        logits = super().negative_logits(queries, temperature)
        return logits * self.weights(logits.detach() * temperature.detach())

    def weights(self, similarities: Tensor) -> Tensor:
        """q.m (B, K) -> w (B, K), constants for autograd.

        All steps but the last, a softmax, work with logarithms: the floor 1e-45 is a subnormal
        number, which some hardware flushes to zero. Weights below e^-80 of the largest in their
        sum are raised to that, because processors are slow with subnormal numbers. Operations are
        in place and without masks, which would take most of the time.
        """
        summed = 1 if self.per_query else 0
        d2 = torch.rsub(similarities, 2, alpha=2).clamp_(min=self.lower_cutoff**2)
        log_q = log_sphere_density(d2, self.memory_queue.shape[1])
        smallest = log_q.amin(1, keepdim=True) if self.per_query else log_q.min()
        log_w = torch.sub(smallest, log_q, out=log_q)
        log_w.sub_(d2.sub_(self.upper_cutoff**2).clamp_(min=0), alpha=1e30)
        floor = (log_w.amax(summed, keepdim=True) - 80).clamp_(min=LOG_FLOOR)
        return F.softmax(log_w.clamp_(min=floor), dim=summed)
