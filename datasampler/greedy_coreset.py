"""Batches that cover the data: greedy k-centres (Sener and Savarese 2018, arXiv 1708.00489).

The first candidate is random, each further one is the farthest from those chosen,

    argmax_i min_{j chosen} d(i, j),

or, softened, a random one at or above the 97th percentile of that distance. `greedy_coreset`:
squared Euclidean distance; B/S candidates, each followed by S - 1 random images of its class.
`full_greedy_coreset`: B - 1 candidates and one image of the class of one of them; distance
`euclidean` (squared), `square` (its root) or `cosine` (1 - cosine similarity).
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from datasampler.base import BatchSampler
from datasampler.storage import Storage, pairwise_squared_distances

SOFTENED_PERCENTILE = 97


class Sampler(BatchSampler):
    def __init__(self, labels: np.ndarray, *, full: bool, measure: str, softened: bool, **shared):
        """shared: see `BatchSampler`."""
        super().__init__(labels, **shared)
        self.full, self.measure, self.softened = full, measure, softened

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        full = name == "full_greedy_coreset"
        return cls(dataset.labels, batch_size=opt.bs, seed=opt.seed, full=full,
                   samples_per_class=1 if full else opt.samples_per_class,
                   measure=opt.data_sim_measure if full else "euclidean",
                   softened=opt.data_gc_softened, storage=Storage.from_opt(opt, dataset))

    def draw(self, rng: np.random.Generator, snapshot: Tensor) -> np.ndarray:
        images = self.storage.candidates(rng)
        points = self.storage.points(rng, snapshot, images)
        distances = MEASURES[self.measure](points).numpy()
        n = self.batch_size - 1 if self.full else self.n_groups
        chosen = images[coreset(rng, distances, n, self.softened)]
        return (self.with_partner(rng, chosen) if self.full else
                self.filled_up(rng, chosen, self.samples_per_class))


def coreset(rng: np.random.Generator, distances: np.ndarray, n: int, softened: bool) -> np.ndarray:
    """distances (M, M) -> n different rows, greedily."""
    chosen = [int(rng.integers(len(distances)))]
    nearest = distances[chosen[0]].copy()       # of each candidate to the nearest chosen one
    free = np.ones(len(distances), dtype=bool)
    while len(chosen) < n:
        free[chosen[-1]] = False
        np.minimum(nearest, distances[chosen[-1]], out=nearest)
        if softened:
            threshold = np.percentile(nearest[free], SOFTENED_PERCENTILE)
            chosen.append(int(rng.choice(np.flatnonzero(free & (nearest >= threshold)))))
        else:
            chosen.append(int(np.where(free, nearest, -np.inf).argmax()))
    return np.array(chosen)


def root(points: Tensor) -> Tensor:
    return pairwise_squared_distances(points).sqrt()


def cosine(points: Tensor) -> Tensor:
    unit = F.normalize(points, dim=1)
    return 1 - unit @ unit.T


MEASURES = {"euclidean": pairwise_squared_distances, "square": root, "cosine": cosine}
