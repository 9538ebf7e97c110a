"""Exact nearest neighbours by Euclidean distance.

A block of queries x is compared with the whole gallery y by one float32 matrix product, of [x, 1]
and [-y, |y|^2 / 2]. Features are first centred on the gallery's mean and scaled, which keeps the
order and leaves squared distances exact to about 1e-7 of the largest. Of the nearest by the
product, a few more than k are then sorted by distances computed from differences. On a GPU for
which faiss is built, faiss replaces the product.
"""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from utilities import faiss_gpu
from utilities.errors import UserError
from utilities.geometry import unusable_rows

MOST_BY_FAISS = 2048    # the most neighbours that faiss finds on a GPU
BLOCK_ENTRIES = {"cpu": 2**24, "cuda": 2**25}   # of a block's distances, 4 bytes each
PAIR_ENTRIES = 2**22    # of the neighbours' features that are held at once
SPARE = 4               # candidates beyond k, so that rounding in the product loses none of the k
GROUP = 16              # columns whose minimum is looked at first


def nearest(queries, gallery, k: int, *, device: torch.device | str | None = None
        ) -> tuple[Tensor, Tensor]:
    """See `metrics.knn`."""
    queries = as_points(queries, device)
    gallery = None if gallery is None else as_points(gallery, queries.device)
    queries, gallery, scale = centred(queries, gallery)
    among, itself = (queries, 1) if gallery is None else (gallery, 0)
    k = min(k, len(among) - itself)
    wider = min(k + SPARE, len(among) - itself)
    by_faiss = faiss_gpu.usable(queries.device) and wider + itself <= MOST_BY_FAISS
    distances = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for rows, candidates in (_by_faiss if by_faiss else _by_blocks)(queries, gallery, wider):
        distance, index = _in_order(queries[rows], among, candidates)
        distances[rows], indices[rows] = distance[:, :k], index[:, :k]
    return distances.mul_(scale), indices


def as_points(features, device: torch.device | str | None = None) -> Tensor:
    """features (N, D), tensor or array -> contiguous float32 on `device`, by default unmoved.

    UserError when rows are not finite, or too large to be compared.
    """
    points = torch.as_tensor(features).detach().to(device, torch.float32).contiguous()
    rows, why = unusable_rows(points)
    if len(rows):
        raise UserError(f"{len(rows)} of {len(points)} embeddings {why}, the first in row "
                        f"{int(rows[0])}: cannot measure them")
    return points


def centred(queries: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Both minus the gallery's mean, divided by `scale`, a power of 2, to entries of at most 1."""
    mean = (queries if gallery is None else gallery).mean(0)
    sides = [side - mean for side in (queries, gallery) if side is not None]
    reach = torch.stack([side.abs().amax() for side in sides]).amax()
    scale = torch.exp2(reach.log2().ceil().clamp(-126, 127))
    sides = [side.div_(scale) for side in sides]
    return sides[0], None if gallery is None else sides[1], scale


def distance_blocks(queries: Tensor, gallery: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, (b, M) float32), in order: d^2 / 2 minus half the query's squared norm.

    queries (N, D), gallery (M, D) as `centred` returns them. gallery None: among the queries, where
    the distance of each to itself is infinite. Each block overwrites the one before.
    """
    among = queries if gallery is None else gallery
    # [-y, |y|^2 / 2] . [x, 1]: the product alone gives the distance, nothing is added to it later.
    among = torch.cat([-among, among.square().sum(1, keepdim=True) / 2], 1)
    size = min(len(queries), max(1, BLOCK_ENTRIES[queries.device.type] // len(among)))
    block = queries.new_empty(size, len(among))
    for rows in _slices(len(queries), size):
        distance = block[:rows.stop - rows.start]
        _product(F.pad(queries[rows], (0, 1), value=1.0), among, out=distance)
        if gallery is None:
            distance[:, rows].fill_diagonal_(torch.inf)
        yield rows, distance


def _by_blocks(queries: Tensor, gallery: Tensor | None, k: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, the k nearest (b, k) int64 in any order)."""
    for rows, distance in distance_blocks(queries, gallery):
        yield rows, _smallest(distance, k)


def _smallest(values: Tensor, k: int) -> Tensor:
    """(b, M) -> (b, k) int64: the columns of each row's k smallest values, in any order.

    Where M is much larger than k, columns w apart form w groups of GROUP. The k smallest values lie
    in the k groups with the smallest minima, since each of these has a value that is no larger than
    any in the other groups. Minima cost a tenth of what topk of all values costs on a CPU.
    """
    width = values.shape[1] // GROUP
    if width <= 4 * k:
        return values.topk(k, 1, largest=False, sorted=False).indices
    grouped = width * GROUP
    minima = values[:, :grouped].unflatten(1, (GROUP, width)).amin(1)
    groups = minima.topk(k, 1, largest=False, sorted=False).indices
    steps = torch.arange(0, grouped, width, device=values.device)
    rest = torch.arange(grouped, values.shape[1], device=values.device).expand(len(values), -1)
    columns = torch.cat([(groups[:, :, None] + steps).flatten(1), rest], 1)
    best = values.gather(1, columns).topk(k, 1, largest=False, sorted=False).indices
    return columns.gather(1, best)


def _by_faiss(queries: Tensor, gallery: Tensor | None, k: int) -> Iterator[tuple[slice, Tensor]]:
    """Like `_by_blocks`, by faiss on the queries' GPU."""
    device, points = queries.device, queries.cpu().numpy()
    among, itself = (points, 1) if gallery is None else (gallery.cpu().numpy(), 0)
    with faiss_gpu.memory():
        _, found = faiss.knn_gpu(faiss_gpu.resources(device.index), points, among, k + itself,
                                 device=device.index)
    for rows in _slices(len(queries), max(1, BLOCK_ENTRIES["cuda"] // (k + itself))):
        indices = torch.from_numpy(found[rows]).to(device)
        yield rows, without_itself(indices, rows) if itself else indices


def without_itself(neighbours: Tensor, rows: slice) -> Tensor:
    """(b, k + 1) neighbours of the queries `rows` -> (b, k), without the index of the query.

    Where a query has many duplicates, its index may be missing: then the last one is dropped.
    """
    drop = neighbours == torch.arange(rows.start, rows.stop, device=neighbours.device)[:, None]
    drop[:, -1] |= ~drop.any(1)
    return neighbours[~drop].view(len(neighbours), -1)


def _in_order(queries: Tensor, gallery: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (b, k), ascending, and indices (b, k) of the gallery's rows `candidates` (b, k)."""
    indices = candidates.sort(dim=1).values    # so that equal distances are ordered by index
    size = max(1, PAIR_ENTRIES // (max(1, indices.shape[1]) * queries.shape[1]))
    distances = torch.cat([
        torch.linalg.vector_norm(gallery[indices[rows]].sub_(queries[rows, None]), dim=2)
        for rows in _slices(len(queries), size)])
    distances, order = distances.sort(dim=1, stable=True)
    return distances, indices.gather(1, order)


def _product(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Writes x y^T into `out` (N, M), in full float32, whatever the training uses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(x.device.type, enabled=False):
            torch.mm(x, y.T, out=out)
    finally:
        torch.set_float32_matmul_precision(before)


def _slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
