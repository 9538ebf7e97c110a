"""Ranks of the images of each query's class, a block of queries at a time: from a table of nearest
neighbours (`in_table`) or in the whole gallery (`in_gallery`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metrics.neighbours import centred, distance_blocks, own_rows

TABLE_ENTRIES = 2**22   # neighbours in one block of a table


class Classes(NamedTuple):
    """Labels of the queries (N,) and of the gallery (M,) int64, and for each query: how many images
    of its class the gallery has (N,), how many of them are not the query itself (N,), and the row
    of the gallery that is the query itself (N,), -1 where it holds none."""

    queries: Tensor
    gallery: Tensor
    size: Tensor
    relevant: Tensor
    own: Tensor

    @classmethod
    def count(cls, labels: Tensor, gallery_labels: Tensor | None, own=None) -> Classes:
        """gallery_labels None: the queries are the gallery. own: as in `metrics.knn`."""
        own = own_rows(len(labels), gallery_labels, own, labels.device)
        among = labels if gallery_labels is None else gallery_labels
        _, groups = torch.cat([among, labels]).unique(return_inverse=True)
        gallery_groups, query_groups = groups.split([len(among), len(labels)])
        size = gallery_groups.bincount(minlength=int(groups.max()) + 1)[query_groups]
        itself = (own >= 0) & (among[own] == labels)
        return cls(labels, among, size, size - itself.long(), own)


class Ranking(NamedTuple):
    """Where the relevant images of a block of b queries, the other images of the query's class,
    stand among all images by distance.

    ranks: (b, w) float32, ascending, 1 for the nearest neighbour; inf for images beyond the
    neighbours looked at, and where a query has fewer than w relevant images;
    relevant: (b,) float32, how many relevant images the gallery holds;
    class_size: (b,) float32, the same with the query itself if the gallery holds it.
    """

    ranks: Tensor
    relevant: Tensor
    class_size: Tensor


def in_table(indices: Tensor, classes: Classes) -> Iterator[Ranking]:
    """indices (N, k): rows of the gallery, nearest first."""
    for rows in torch.arange(len(indices), device=indices.device).split(
            max(1, TABLE_ENTRIES // max(1, indices.shape[1]))):
        hits = classes.gallery[indices[rows]] == classes.queries[rows, None]
        hits &= indices[rows] != classes.own[rows, None]
        yield _ranking(from_hits(hits), classes, rows)


def in_gallery(queries: Tensor, gallery: Tensor | None, classes: Classes) -> Iterator[Ranking]:
    """Over the whole gallery. At equal distance, images of other classes count as nearer.
    queries (N, D), gallery (M, D) or None: among the queries."""
    queries, gallery, _ = centred(queries, gallery)
    for rows, distance in distance_blocks(queries, gallery, classes.own):
        same = classes.gallery == classes.queries[rows, None]
        width = max(1, int(classes.size[rows].max()))
        relevant = _sorted(distance.where(same, torch.inf))[:, :width].contiguous()
        others = _sorted(distance.masked_fill_(same, torch.inf))
        ranks = (torch.searchsorted(others, relevant, right=True)
                 + torch.arange(1, width + 1, device=relevant.device))
        yield _ranking(ranks.float().where(relevant < torch.inf, torch.inf), classes, rows)


def from_hits(hits: Tensor) -> Tensor:
    """(b, k) bool, which neighbours are relevant -> (b, w) float32, their ranks."""
    order = hits.cumsum(1)
    width = max(1, int(order[:, -1].max())) if hits.shape[1] else 1
    ranks = torch.full((len(hits), width), torch.inf, device=hits.device)
    query, position = hits.nonzero(as_tuple=True)
    ranks[query, order[query, position] - 1] = position.float() + 1
    return ranks


def _ranking(ranks: Tensor, classes: Classes, rows) -> Ranking:
    return Ranking(ranks, classes.relevant[rows].float(), classes.size[rows].float())


def _sorted(values: Tensor) -> Tensor:
    """Each row ascending; on a CPU by NumPy, eight times as fast as torch, which also sorts
    indices."""
    if values.is_cuda:
        return values.sort(dim=1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))
