"""Momentum contrast (He et al. 2020, arXiv 1911.05722).

    L = mean_i CE([q_i.k_i, q_i.m_1, ..., q_i.m_K] / t, 0)

with queries q_i, their keys k_i and a first-in-first-out queue of earlier keys m_j. Deviation from
the paper, as in the original: t may be learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Criterion(nn.Module):
    def __init__(self, queue_size: int, embed_dim: int, *, temperature: float, lr: float | None):
        """queue_size: K; lr: learning rate of the temperature, None for a fixed temperature."""
        super().__init__()
        self.lr = lr
        if lr is None:
            self.register_buffer("temperature", torch.tensor(float(temperature)))
        else:
            self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.register_buffer("memory_queue", torch.zeros(queue_size, embed_dim))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_opt(cls, opt, **_):
        return cls(opt.diva_moco_n_key_batches * opt.bs, opt.embed_dim,
                   temperature=opt.diva_moco_temperature,
                   lr=opt.diva_moco_temp_lr if opt.diva_moco_trainable_temp else None,
                   **cls.more_arguments(opt))

    @staticmethod
    def more_arguments(opt) -> dict:
        """Arguments that only the constructor of a subclass takes."""
        return {}

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries, keys (B, D), row i of both from one image -> scalar; keys get no gradient."""
        temperature = self.clamped_temperature
        queries = queries / temperature     # divides B D numbers instead of B K logits
        positive = (queries * keys.detach().clone()).sum(1, keepdim=True)   # inference tensors
        logits = torch.cat([positive, self.negative_logits(queries, temperature)], dim=1)
        target = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        return F.cross_entropy(logits, target)                              # (B, 1 + K)

    @property
    def clamped_temperature(self) -> Tensor:
        """t, kept in a range that learning may have left."""
        return self.temperature.clamp(1e-8, 1e4)

    def negative_logits(self, queries: Tensor, temperature: Tensor) -> Tensor:
        """queries (B, D), divided by the temperature -> (B, K)."""
        return queries @ self.memory_queue.T

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replaces the oldest rows by keys (B, D); of more than K keys only the last K are stored.

        A new queue holds zeros, so K keys must be enqueued, in any portions, before the first loss.
        """
        size = len(self.memory_queue)
        newest = keys[-size:]
        start = self.oldest + len(keys) - len(newest)
        rows = (start + torch.arange(len(newest), device=keys.device)) % size
        self.memory_queue.index_copy_(0, rows, newest)
        self.oldest.copy_((self.oldest + len(keys)) % size)
