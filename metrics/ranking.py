"""Where each query's relevant images stand among its neighbours.

From few neighbours (`from_hits`) or in the whole gallery (`in_gallery`), where the similarities of
a block of queries are held, never all: an image's rank is found by counting what is not farther.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metrics import neighbours

FEW = 64  # up to here counting costs less than sorting a row


class Ranking(NamedTuple):
    """What a block of b queries finds.

    ranks: (b, w) float32, ascending: the ranks, from 1, of the gallery's images of the query's
    class, inf where there is none or it lies beyond the neighbours looked at;
    relevant: (b,) float32, how many of them the gallery holds, without the query itself;
    class_size: (b,) float32, the same with the query itself, where the queries are the gallery.
    """

    ranks: Tensor
    relevant: Tensor
    class_size: Tensor

    def precision_sum(self, limit: Tensor | float) -> Tensor:
        """(b,): sum over the first `limit` neighbours of P@i where the i-th is relevant."""
        found = torch.arange(1, self.ranks.shape[1] + 1, device=self.ranks.device)
        return torch.where(self.ranks <= limit, found / self.ranks, 0.0).sum(1)


class Classes:
    """Which gallery images share a query's class.

    query_labels (N,), gallery_labels (M,) int64; gallery_labels None: the queries are the gallery.
    """

    def __init__(self, query_labels: Tensor, gallery_labels: Tensor | None):
        self.among_themselves = gallery_labels is None
        among = query_labels if self.among_themselves else gallery_labels
        _, groups = torch.cat([among, query_labels]).unique(return_inverse=True)
        self.among, self.wanted = groups[: len(among)], groups[len(among):]
        self.sizes = self.among.bincount(minlength=int(groups.max()) + 1)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.sorted = self.among.argsort(stable=True)

    def ranking(self, rows: Tensor, ranks: Tensor) -> Ranking:
        size = self.sizes[self.wanted[rows]].float()
        return Ranking(ranks, size - int(self.among_themselves), size)

    def members(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(b, w) gallery images of the class of each of `rows`, the first repeated to fill up, and
        (b, w) bool, which are no repetition."""
        size, start = (of[self.wanted[rows], None] for of in (self.sizes, self.starts))
        place = torch.arange(max(1, int(size.max())), device=rows.device)
        first = start.clamp(max=len(self.among) - 1)
        return self.sorted[(start + place).where(place < size, first)], place < size


def from_hits(hits: Tensor) -> Tensor:
    """(b, k) bool, which neighbours are relevant -> (b, w) float32, their ranks."""
    order = hits.cumsum(1)
    width = max(1, int(order[:, -1].max())) if hits.shape[1] else 1
    ranks = torch.full((len(hits), width), torch.inf, device=hits.device)
    query, position = hits.nonzero(as_tuple=True)
    ranks[query, order[query, position] - 1] = position.float() + 1
    return ranks


def in_gallery(queries: Tensor, gallery: Tensor | None, classes: Classes) -> Iterator[tuple]:
    """Yields (rows (b,), ranks (b, w)) of all relevant images, over the whole gallery.

    What is as near as a relevant image and is not relevant counts as nearer.
    """
    by_size = classes.sizes[classes.wanted].argsort(stable=True)
    for rows, similarity in neighbours.similarities(queries, gallery, by_size):
        members, inside = classes.members(rows)
        if classes.among_themselves:
            inside &= members != rows[:, None]
        width = max(1, int(inside.sum(1).max()))
        relevant = similarity.gather(1, members).where(inside, -torch.inf).topk(width, 1).values
        similarity.scatter_(1, members, -torch.inf)
        nearer = _reached if similarity.is_cuda else _reached_on_cpu
        ranks = nearer(similarity, relevant) + torch.arange(1, width + 1, device=rows.device)
        yield rows, ranks.float().where(relevant > -torch.inf, torch.inf)


def _reached(values: Tensor, thresholds: Tensor) -> Tensor:
    """(b, w) int64: how many of a row's values (b, M) reach each of its thresholds (b, w)."""
    if thresholds.shape[1] > FEW:
        return values.shape[1] - torch.searchsorted(values.sort(1).values, thresholds)
    reached = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    return torch.stack([torch.ge(values, threshold[:, None], out=reached).sum(1)
                        for threshold in thresholds.unbind(1)], 1)


def _reached_on_cpu(values: Tensor, thresholds: Tensor) -> Tensor:
    """The same, a row at a time so that it stays in the cache: measured 8 times as fast there."""
    if thresholds.shape[1] > FEW:
        counts = [len(row) - np.searchsorted(np.sort(row), wanted)
                  for row, wanted in zip(values.numpy(), thresholds.numpy(), strict=True)]
    else:
        counts = [[np.count_nonzero(row >= threshold) for threshold in wanted]
                  for row, wanted in zip(values.numpy(), thresholds.numpy(), strict=True)]
    return torch.from_numpy(np.array(counts, dtype=np.int64))
