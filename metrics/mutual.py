"""Nearest neighbours within one set, on the CPU: each pair's similarity is computed once.

Tile (I, J) of the symmetric matrix -d^2 / 2 serves the queries in I and those in J: half the
arithmetic of a search that does not know both sides to be the same. It serves several weightings of
the columns, too: where groups g of columns have their weights in common, d^2 is the sum of
w_g^2 d_g^2, so all of them need the products of one. Of a tile only the entries above the k-th
best known so far, of their row or of their column, are looked at, and those are few.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

TILE, SMALLEST = 2048, 256  # rows of the largest and the smallest tiles
STRIP = 512                 # rows of a tile that are made at once: they stay in the cache
MOST_THREADS = 16
MOST_KEPT, MOST_GROUPS = 256, 8     # neighbours of a point by all weights; groups of columns


def suits(n: int, k: int, weights: Tensor | None = None) -> bool:
    """Whether a search for k neighbours among n belongs here: by one weighting, or by several
    `weights` (T, D), where T plain ones are the other way.

    As measured, it is then faster (but for single heads alone with k near its bound), and holds
    less than a GB.
    """
    if weights is None:
        return n >= 4 * TILE and k <= SMALLEST // 2
    return (n >= 2 * TILE and k <= SMALLEST // 4 and k * len(weights) <= MOST_KEPT
            and weights.unique(dim=1).shape[1] <= MOST_GROUPS)


def search(points: Tensor, k: int, mean: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    """(T, N, k) int32: every point's nearest others, nearest first, by each of `weights`.

    points (N, D) float32 on the CPU; weights (T, D), in no row all 0; similarities are those of
    (points - mean (D,)) / scale * weights. The points are taken in a random order, always the same,
    so that the first ones tell how near the k-th may be. As many threads as torch uses compute
    tiles; one takes what they find, in order, so that the result does not depend on them.
    """
    n, threads = len(points), min(MOST_THREADS, torch.get_num_threads())
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    tiles = _Tiles(n, weights)
    nearest = [_Nearest(n, k) for _ in weights]
    for block in _blocks(0, n, TILE):
        tiles.put(block, (points[order[block]] - mean) / scale)

    def begin(block: slice) -> None:
        parts = tiles.parts(block, tiles.swapped(block))
        for own, tile in zip(nearest, tiles.mixed(parts), strict=True):
            own.begin(block, tile)

    def candidates(rows: slice, columns: slice) -> list[_Found]:
        found, others = [_Found(rows, columns) for _ in nearest], tiles.swapped(columns)
        for strip in _blocks(rows.start, rows.stop, STRIP):
            mixed = tiles.mixed(tiles.parts(strip, others))
            for own, tile, its in zip(nearest, mixed, found, strict=True):
                its.add(tile, strip, own.worst)
        return found

    def take(found: list[_Found]) -> None:
        for own, its in zip(nearest, found, strict=True):
            own.take(its.rows, *its.for_rows())
            own.take(its.columns, *its.for_columns())

    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(begin, _blocks(0, n, SMALLEST)))
        waiting: deque[Future] = deque()
        for rows, columns in _pairs(n):
            waiting.append(pool.submit(candidates, rows, columns))
            if len(waiting) > threads:
                take(waiting.popleft().result())
        for tile in waiting:
            take(tile.result())
    result, names = np.empty((len(nearest), n, k), dtype=np.int32), order.numpy().astype(np.int32)
    for rows in result[::-1]:
        rows[names] = names[nearest.pop().sorted()]     # whose memory is free then
    return torch.from_numpy(result)


def _blocks(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _pairs(n: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of blocks that meet every pair of points once, but those within a smallest block."""
    size = SMALLEST
    while size < TILE:
        blocks = _blocks(0, n, size)
        yield from zip(blocks[::2], blocks[1::2], strict=False)
        size *= 2
    yield from itertools.combinations(_blocks(0, n, TILE), 2)


class _Tiles:
    """Tiles of -d^2 / 2: a part for each group of columns, mixed for each of `weights` (T, D)."""

    def __init__(self, n: int, weights: Tensor):
        assert weights.any(1).all(), "a row of weights is all 0"
        squares, group = weights.double().square().unique(dim=1, return_inverse=True)
        squares /= squares.amax(1, keepdim=True)
        used = squares.any(0).nonzero()[:, 0].tolist()
        self.groups = [torch.where(group == g)[0] for g in used]
        # Of each of the weights (square, group), the largest, 1, first
        self.mixtures = [sorted(((square, g) for g, square in enumerate(row) if square),
                                key=lambda entry: -entry[0])
                         for row in squares[:, used].tolist()]
        # x, -|x|^2 / 2, 1 of every group
        self.factors = [np.empty((n, len(columns) + 2), dtype=np.float32)
                        for columns in self.groups]

    def put(self, block: slice, points: Tensor) -> None:
        for factor, columns in zip(self.factors, self.groups, strict=True):
            own = points[:, columns]
            factor[block, :-2] = own
            factor[block, -2] = own.square().sum(1) / -2
            factor[block, -1] = 1

    def swapped(self, block: slice) -> list[np.ndarray]:
        """Each group's factor with the last two columns swapped: the other side of a product."""
        others = [factor[block].copy() for factor in self.factors]
        for other in others:
            other[:, -2:] = other[:, :-3:-1].copy()
        return others

    def parts(self, rows: slice, others: list[np.ndarray]) -> list[np.ndarray]:
        """Of each group: x.y, each with the other's 1 times its own -|x|^2 / 2."""
        return [factor[rows] @ other.T for factor, other in zip(self.factors, others, strict=True)]

    def mixed(self, parts: list[np.ndarray]) -> Iterator[np.ndarray]:
        """For each of the weights its similarities, which the next one may overwrite."""
        mixed, term = np.empty_like(parts[0]), np.empty_like(parts[0])
        for (_, first), *others in self.mixtures:
            total = parts[first]
            for square, g in others:
                total = np.add(total, parts[g] if square == 1 else
                               np.multiply(parts[g], np.float32(square), out=term), out=mixed)
            yield total


class _Found:
    """The entries of a tile that may be among the nearest of their row or of their column.

    Thresholds, the k-th best similarities of all points, may rise meanwhile: an old one only lets
    more through.
    """

    def __init__(self, rows: slice, columns: slice):
        self.rows, self.columns = rows, columns
        self.above_row: list[tuple] = []
        self.above_column: list[tuple] = []

    def add(self, tile: np.ndarray, strip: slice, thresholds: np.ndarray) -> None:
        """Looks at the rows `strip`."""
        first = strip.start - self.rows.start
        for entries, least in ((self.above_row, thresholds[strip, None]),
                               (self.above_column, thresholds[self.columns])):
            row, column = np.divmod(np.flatnonzero(tile > least), tile.shape[1])
            entries.append(((row + first).astype(np.int32), column.astype(np.int32),
                            tile[row, column]))

    def for_rows(self) -> tuple[np.ndarray, ...]:
        """(place in the block, ascending; index of the other; similarity) of each entry."""
        row, column, similarity = map(np.concatenate, zip(*self.above_row, strict=True))
        return row, column + self.columns.start, similarity

    def for_columns(self) -> tuple[np.ndarray, ...]:
        row, column, similarity = map(np.concatenate, zip(*self.above_column, strict=True))
        order = np.argsort(column, kind="stable")
        return column[order], row[order] + self.rows.start, similarity[order]


class _Nearest:
    """The k nearest others of every point among those seen so far, in the order of being seen: of
    equally near ones the first is kept, and comes first, so that k does not decide which."""

    def __init__(self, n: int, k: int):
        self.k = k
        self.similarity = np.full((n, k), -np.inf, dtype=np.float32)
        self.index = np.zeros((n, k), dtype=np.int32)
        self.worst = np.full(n, -np.inf, dtype=np.float32)  # the k-th best similarity

    def sorted(self) -> np.ndarray:
        """(N, k) int32, nearest first."""
        order = np.argsort(-self.similarity, axis=1, kind="stable")
        return np.take_along_axis(self.index, order, 1)

    def begin(self, block: slice, tile: np.ndarray) -> None:
        """Takes what is inside a block."""
        tile = tile.copy()
        np.fill_diagonal(tile, -np.inf)
        some = min(self.k, len(tile))
        best = _best(tile, some)
        self.similarity[block, :some] = np.take_along_axis(tile, best, 1)
        self.index[block, :some] = best + block.start
        self.worst[block] = self.similarity[block].min(1)

    def take(self, block: slice, place: np.ndarray, other: np.ndarray, similarity: np.ndarray
             ) -> None:
        """Keeps the k best of what is known and of what was found; places ascending."""
        kept = similarity > self.worst[block][place]
        place, other, similarity = place[kept], other[kept], similarity[kept]
        if not len(place):
            return
        count = np.bincount(place, minlength=block.stop - block.start)
        column = np.arange(len(place)) - (np.cumsum(count) - count)[place] + self.k
        more = ((0, 0), (0, count.max()))
        widened = np.pad(self.similarity[block], more, constant_values=-np.inf)
        indices = np.pad(self.index[block], more)
        widened[place, column], indices[place, column] = similarity, other
        best = _best(widened, self.k)
        self.similarity[block] = np.take_along_axis(widened, best, 1)
        self.index[block] = np.take_along_axis(indices, best, 1)
        self.worst[block] = self.similarity[block].min(1)


def _best(values: np.ndarray, k: int) -> np.ndarray:
    """(b, k) columns, ascending, of the k largest of each row (b, w); of equal ones the first."""
    best = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    least = np.take_along_axis(values, best[:, :1], 1)
    tied = np.count_nonzero(values >= least, axis=1) > k
    if tied.any():
        best[tied] = np.argsort(-values[tied], axis=1, kind="stable")[:, :k]
    return np.sort(best, axis=1)
