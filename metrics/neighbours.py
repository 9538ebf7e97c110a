"""Exact nearest neighbours by Euclidean distance.

A block of queries x is compared with the whole gallery y by one float32 matrix product, of [x, 1]
and [-y, |y|^2 / 2]. Features are first centred on the gallery's mean and scaled, which keeps the
order and leaves squared distances exact to about 1e-7 of the largest. Of the nearest by the
product, a few more than k are then sorted by distances computed from differences. On a GPU for
which faiss is built, faiss replaces the product.
"""

from collections.abc import Iterator

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from utilities import faiss_gpu
from utilities.errors import TrainingError
from utilities.geometry import unusable_rows

MOST_BY_FAISS = 2048    # the most neighbours that faiss finds on a GPU
BLOCK_ENTRIES = {"cpu": 2**24, "cuda": 2**25}   # of a block's distances, 4 bytes each
PAIR_ENTRIES = 2**22    # of the neighbours' features that are held at once
SPARE = 5   # candidates beyond k: one for the query itself, the others for rounding in the product
GROUP = 16              # columns whose minimum is looked at first


def knn(queries: Tensor, gallery: Tensor | None, k: int, *, own: Tensor | None = None, device=None
        ) -> tuple[Tensor, Tensor]:
    """Distances (N, k) float32 and indices (N, k) int64 of the k nearest rows of the gallery.

    queries (N, D), gallery (M, D) floating point, tensors or arrays; gallery None: among the
    queries, leaving each out by its index. Exact and Euclidean, nearest first; equal distances are
    ordered by index. k is reduced to the number of rows that exist. own (N,) integers: the row of
    the gallery that is the query itself, -1 where it holds none; it comes last, at an infinite
    distance, so it is found only where k is M. device: where to search and where the result lies,
    by default where the queries lie. TrainingError as in `metrics.compute`.
    """
    queries = as_points(queries, device)
    own = own_rows(len(queries), gallery, own, queries.device)
    k = min(k, len(queries) - 1 if gallery is None else len(gallery))
    gallery = None if gallery is None else as_points(gallery, queries.device)
    queries, gallery, scale = centred(queries, gallery)
    wider = min(k + SPARE, len(gallery))
    if faiss_gpu.usable(queries.device) and wider <= MOST_BY_FAISS:
        found = _by_faiss(queries, gallery, wider)
    else:
        found = _by_blocks(queries, gallery, own, wider)
    distances = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for rows, candidates in found:
        distance, index = _in_order(queries[rows], gallery, candidates, own[rows])
        distances[rows], indices[rows] = distance[:, :k], index[:, :k]
    return distances.mul_(scale), indices


def own_rows(n: int, gallery, own, device) -> Tensor:
    """(n,) int64: the row of the gallery that is the query itself, -1 where it holds none.

    gallery None: the n queries are the gallery. own: the rows in another gallery, None for none.
    """
    if gallery is None:
        return torch.arange(n, device=device)
    if own is None:
        return torch.full((n,), -1, device=device)
    return torch.as_tensor(own).to(device, torch.int64)


def as_points(features, device: torch.device | str | None = None) -> Tensor:
    """features (N, D), tensor or array -> contiguous float32 on `device`, by default unmoved.

    TrainingError when rows are not finite, or too large to be compared.
    """
    points = torch.as_tensor(features).detach().to(device, torch.float32).contiguous()
    rows, why = unusable_rows(points)
    if len(rows):
        raise TrainingError(f"{len(rows)} of {len(points)} embeddings {why}, the first in row "
                            f"{int(rows[0])}: cannot measure them")
    return points


def centred(queries: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both minus the gallery's mean, divided by `scale`, a power of 2, to entries of at most 1.
    gallery None: the queries are the gallery, too."""
    mean = (queries if gallery is None else gallery).mean(0)
    sides = [side - mean for side in (queries, gallery) if side is not None]
    reach = torch.stack([side.abs().amax() for side in sides]).amax()
    scale = torch.exp2(reach.log2().ceil().clamp(-126, 127))
    sides = [side.div_(scale) for side in sides]
    return sides[0], sides[-1], scale


def distance_blocks(queries: Tensor, gallery: Tensor, own: Tensor
                    ) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, (b, M) float32), in order: d^2 / 2 minus half the query's squared norm.

    queries (N, D), gallery (M, D) as `centred` returns them, own (N,) as `own_rows` does: the
    distance of a query to itself is infinite. Each block overwrites the one before.
    """
    # [-y, |y|^2 / 2] . [x, 1]: the product alone gives the distance, nothing is added to it later.
    among = torch.cat([-gallery, gallery.square().sum(1, keepdim=True) / 2], 1)
    size = min(len(queries), max(1, BLOCK_ENTRIES[queries.device.type] // len(among)))
    block = queries.new_empty(size, len(among))
    for rows in _slices(len(queries), size):
        distance = block[:rows.stop - rows.start]
        _product(F.pad(queries[rows], (0, 1), value=1.0), among, out=distance)
        both = (own[rows] >= 0).nonzero().flatten()
        distance[both, own[rows][both]] = torch.inf
        yield rows, distance


def _by_blocks(queries: Tensor, gallery: Tensor, own: Tensor, k: int
               ) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, the k nearest (b, k) int64 in any order)."""
    for rows, distance in distance_blocks(queries, gallery, own):
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


def _by_faiss(queries: Tensor, gallery: Tensor, k: int) -> Iterator[tuple[slice, Tensor]]:
    """Like `_by_blocks`, by faiss on the queries' GPU; a query may be among its nearest."""
    device, points = queries.device, queries.cpu().numpy()
    among = points if gallery is queries else gallery.cpu().numpy()
    with faiss_gpu.memory():
        _, found = faiss.knn_gpu(faiss_gpu.resources(device.index), points, among, k,
                                 device=device.index)
    for rows in _slices(len(queries), max(1, BLOCK_ENTRIES["cuda"] // k)):
        yield rows, torch.from_numpy(found[rows]).to(device)


def _in_order(queries: Tensor, gallery: Tensor, candidates: Tensor, own: Tensor
              ) -> tuple[Tensor, Tensor]:
    """Distances (b, k), ascending, and indices (b, k) of the gallery's rows `candidates` (b, k);
    the query itself, `own` (b,), comes last, at an infinite distance."""
    indices = candidates.sort(dim=1).values    # so that equal distances are ordered by index
    size = max(1, PAIR_ENTRIES // (max(1, indices.shape[1]) * queries.shape[1]))
    distances = torch.cat([
        torch.linalg.vector_norm(gallery[indices[rows]].sub_(queries[rows, None]), dim=2)
        for rows in _slices(len(queries), size)])
    distances.masked_fill_(indices == own[:, None], torch.inf)
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
