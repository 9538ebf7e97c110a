"""Nearest neighbours by Euclidean distance, a block of queries at a time.

Three ways, none of them approximate: faiss, on the CPU or on a GPU; blocks of products with torch,
on a device for which faiss was not built; and, among one set on the CPU, `metrics.mutual`, which
computes each pair once. All compare |x|^2 + |y|^2 - 2xy in float32, of features moved to their mean
and scaled, where it loses the fewest digits; neither changes who is near. What remains is about
1e-7 of the largest squared distance: images whose squared distances to a query differ by less, as
duplicates' do, come in an arbitrary order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np
import torch
from torch import Tensor

from metrics import mutual

MOST_NEIGHBOURS = 2047  # and the query itself: what faiss finds on a GPU; beyond, all are ranked
QUERIES_PER_BLOCK = 4096
BLOCK_BYTES = {"cpu": 2**26, "cuda": 2**28}


def search(queries: Tensor, gallery: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (rows (b,) of queries, rows (b, k) of the gallery, nearest first) int64, by blocks.

    queries (N, D), gallery (M, D) float32 on one device; k at most MOST_NEIGHBOURS and M. gallery
    None: among the queries, each but itself by its index, k at most N - 1.
    """
    if queries.is_cuda and not faiss.get_num_gpus():
        yield from _in_blocks(queries, gallery, k)
    elif gallery is None and not queries.is_cuda and mutual.suits(len(queries), k):
        equal = torch.ones(1, queries.shape[1])
        found, = mutual.search(queries, k, *_frame(queries, None), equal)
        yield torch.arange(len(queries)), found.long()
    else:
        yield from _with_faiss(queries, gallery, k)


class Together:
    """Searches among points under several weightings of their columns, one pass for all.

    points (N, D) float32; weights {name: (D,)} on the same device, equal over many columns.
    `search(name, k)` finds what `search(points * weights[name], None, k)` does, or is None where
    that is cheaper: where `metrics.mutual` does not suit. The first finds the neighbours of all.
    """

    def __init__(self, points: Tensor, weights: dict[str, Tensor]):
        self.points, self.names = points, list(weights)
        self.weights = torch.stack(list(weights.values()))
        self.found: Tensor | None = None

    def search(self, name: str, k: int) -> Iterator[tuple[Tensor, Tensor]] | None:
        if self.points.is_cuda or not mutual.suits(len(self.points), k, self.weights):
            return None
        if self.found is None or self.found.shape[2] < k:
            self.found = mutual.search(self.points, k, *_frame(self.points, None), self.weights)
        found = self.found[self.names.index(name), :, :k]
        return iter([(torch.arange(len(found)), found.long())])


def _in_blocks(queries: Tensor, gallery: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, similarity in similarities(queries, gallery):
        yield rows, similarity.topk(k, 1).indices


def _with_faiss(queries: Tensor, gallery: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    own, device = int(gallery is None), queries.device
    mean, scale = _frame(queries, gallery)
    find = _finder(((queries if own else gallery) - mean).div_(scale).cpu().numpy(), device)
    for rows in torch.arange(len(queries), device=device).split(QUERIES_PER_BLOCK):
        found = find(((queries[rows] - mean) / scale).cpu().numpy(), k + own)
        found = torch.from_numpy(found).to(device)
        yield rows, _without_self(found, rows) if own else found


def similarities(queries: Tensor, gallery: Tensor | None, order: Tensor | None = None
                 ) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (rows (b,), (b, M) float32, larger where nearer) for blocks of queries in `order`.

    gallery None: the queries themselves, with -inf where a query meets itself. A row holds
    x.y - |y|^2 / 2, which is -d^2 / 2 but for the query's norm.
    """
    among_themselves, device = gallery is None, queries.device
    mean, scale = _frame(queries, gallery)
    gallery = ((queries if among_themselves else gallery) - mean).div_(scale)
    half = gallery.square().sum(1) / -2
    order = torch.arange(len(queries)) if order is None else order
    block = max(1, BLOCK_BYTES[device.type] // (4 * len(gallery)))
    for rows in order.to(device).split(block):
        similarity = _product((queries[rows] - mean) / scale, gallery).add_(half)
        if among_themselves:
            similarity.scatter_(1, rows[:, None], -torch.inf)
        yield rows, similarity


def _frame(queries: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gallery's mean (D,), and the largest entry of what is searched once that is taken off."""
    among = queries if gallery is None else gallery
    mean = among.mean(0)
    mean = mean.where(mean.isfinite(), 0)   # sums of entries of 1e34 overflow
    reach = [torch.maximum(points.amax(0) - mean, mean - points.amin(0)).max()
             for points in (queries, gallery) if points is not None]
    return mean, torch.stack(reach).max().clamp(min=torch.finfo(torch.float32).tiny)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x y^T (N, M), never in TF32. On the CPU by NumPy's BLAS: measured up to 1.7 times as fast as
    torch's."""
    if not x.is_cuda:
        return torch.from_numpy(x.numpy() @ y.numpy().T)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False):
            return x @ y.T
    finally:
        torch.set_float32_matmul_precision(before)


def _finder(gallery: np.ndarray, device: torch.device) -> Callable[[np.ndarray, int], np.ndarray]:
    """(queries, k) -> indices of the k nearest in `gallery`, by faiss on `device`."""
    if device.type == "cpu":
        return lambda queries, k: faiss.knn(queries, gallery, k)[1]
    index = flat_index(gallery.shape[1], device)
    index.add(gallery)
    return lambda queries, k: index.search(queries, k)[1]


def flat_index(dim: int, device: torch.device) -> faiss.Index:
    """An empty index of squared Euclidean distances, on `device` itself where faiss can."""
    if device.type == "cpu" or not faiss.get_num_gpus():
        return faiss.IndexFlatL2(dim)
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(2**28)
    options = faiss.GpuIndexFlatConfig()
    options.device = device.index or 0
    index = faiss.GpuIndexFlatL2(resources, dim, options)
    index.referenced_objects = [resources]      # which live as long as the index
    return index


def _without_self(found: Tensor, rows: Tensor) -> Tensor:
    """(b, k + 1) neighbours of the queries `rows` -> (b, k), each query's own index left out.

    Among many duplicates a query may be missing from its own neighbours: then the last one goes.
    """
    drop = found == rows[:, None]
    drop[:, -1] |= ~drop.any(1)
    return found[~drop].reshape(len(found), -1)
