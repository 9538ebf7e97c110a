"""Nearest neighbours within one set, on the CPU: each pair's similarity is computed once.

Tile (I, J) of the symmetric matrix -d^2 / 2 serves the queries in I and those in J: half the
arithmetic of a search that does not know both sides to be the same. Of a tile only the entries
above the k-th best known so far, of their row or of their column, are looked at, and those are few.
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
MOST_THREADS = 16


def suits(n: int, k: int) -> bool:
    """Whether this is faster than a plain search for k neighbours among n, as measured."""
    return n >= 4 * TILE and k <= SMALLEST // 2


def search(points: Tensor, k: int, mean: Tensor, scale: Tensor) -> Tensor:
    """(N, k) int64: every point's nearest others, nearest first.

    points (N, D) float32 on the CPU; similarities are those of (points - mean (D,)) / scale. The
    points are taken in a random order, always the same, so that the first ones tell how near
    the k-th may be. As many threads as torch uses compute tiles; one takes what they find, in
    order, so that the result does not depend on them.
    """
    n, threads = len(points), min(MOST_THREADS, torch.get_num_threads())
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    nearest = _Nearest(n, points.shape[1], k)
    for block in _blocks(n, TILE):
        nearest.put(block, (points[order[block]] - mean) / scale)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(nearest.begin, _blocks(n, SMALLEST)))
        waiting: deque[Future] = deque()
        for rows, columns in _pairs(n):
            waiting.append(pool.submit(nearest.candidates, rows, columns))
            if len(waiting) > 2 * threads:
                nearest.take(waiting.popleft().result())
        for tile in waiting:
            nearest.take(tile.result())
    result = torch.empty(n, k, dtype=torch.int64)
    result[order] = order[torch.from_numpy(nearest.sorted())]
    return result


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _pairs(n: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of blocks that meet every pair of points once, but those within a smallest block."""
    size = SMALLEST
    while size < TILE:
        blocks = _blocks(n, size)
        yield from zip(blocks[::2], blocks[1::2], strict=False)
        size *= 2
    yield from itertools.combinations(_blocks(n, TILE), 2)


class _Nearest:
    """The k nearest others of every point among those seen so far, in the order of being seen: of
    equally near ones the first is kept, and comes first, so that k does not decide which."""

    def __init__(self, n: int, dim: int, k: int):
        self.k = k
        self.factor = np.empty((n, dim + 2), dtype=np.float32)  # x, -|x|^2 / 2, 1
        self.similarity = np.full((n, k), -np.inf, dtype=np.float32)
        self.index = np.zeros((n, k), dtype=np.int32)
        self.worst = np.full(n, -np.inf, dtype=np.float32)  # the k-th best similarity

    def put(self, block: slice, points: Tensor) -> None:
        self.factor[block, :-2] = points
        self.factor[block, -2] = points.square().sum(1) / -2
        self.factor[block, -1] = 1

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        """-d^2 / 2 of points and points: x.y, each with the other's 1 times its own -|x|^2 / 2."""
        other = self.factor[columns].copy()
        other[:, -2:] = self.factor[columns, :-3:-1]
        return self.factor[rows] @ other.T

    def sorted(self) -> np.ndarray:
        """(N, k) int32, nearest first."""
        order = np.argsort(-self.similarity, axis=1, kind="stable")
        return np.take_along_axis(self.index, order, 1)

    def begin(self, block: slice) -> None:
        """Looks inside a block."""
        tile = self.tile(block, block)
        np.fill_diagonal(tile, -np.inf)
        some = min(self.k, len(tile))
        best = _best(tile, some)
        self.similarity[block, :some] = np.take_along_axis(tile, best, 1)
        self.index[block, :some] = best + block.start
        self.worst[block] = self.similarity[block].min(1)

    def candidates(self, rows: slice, columns: slice) -> list[tuple]:
        """(block, place in it, index of the other, similarity), twice: for rows and for columns.

        May run beside `take`: thresholds only rise, so an old one only lets more through.
        """
        tile = self.tile(rows, columns)
        row, column = np.divmod(np.flatnonzero(tile > self.worst[rows, None]), tile.shape[1])
        for_rows = rows, row, column + columns.start, tile[row, column]
        row, column = np.divmod(np.flatnonzero(tile > self.worst[columns]), tile.shape[1])
        by_column = np.argsort(column, kind="stable")
        row, column = row[by_column], column[by_column]
        return [for_rows, (columns, column, row + rows.start, tile[row, column])]

    def take(self, found: list[tuple]) -> None:
        """Keeps the k best of what is known and of what `candidates` found."""
        for block, *entries in found:
            kept = entries[2] > self.worst[block][entries[0]]
            place, other, similarity = (values[kept] for values in entries)
            if not len(place):
                continue
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
