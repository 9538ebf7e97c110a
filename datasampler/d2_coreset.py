"""Coresets by importance sampling over squared distances ("D2", Arthur and Vassilvitskii 2007).

With a Gaussian N of the candidates' mean and covariance, the next point is drawn with probability

    P(i) ~ N(x_i) (sum_{j chosen} |x_i - x_j|^2)^lambda

among those not chosen, the first one by N alone; B/S points, each followed in the batch by S - 1
random images of its class. A millionth of the mean variance is added to N's covariance, since
normalised or few embeddings do not span all dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datasampler.base import BatchSampler
from datasampler.storage import Storage, pairwise_squared_distances


class Sampler(BatchSampler):
    def __init__(self, labels: np.ndarray, *, exponent: float, **shared):
        """shared: see `BatchSampler`."""
        super().__init__(labels, **shared)
        self.exponent = exponent

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        return cls(dataset.labels, batch_size=opt.bs, samples_per_class=opt.samples_per_class,
                   seed=opt.seed, exponent=opt.data_d2_coreset_lambda,
                   storage=Storage.from_opt(opt, dataset))

    def draw(self, rng: np.random.Generator, snapshot: Tensor) -> np.ndarray:
        images = self.storage.candidates(rng)
        points = self.storage.points(rng, snapshot, images)
        chosen = images[coreset(rng, points, self.n_groups, self.exponent)]
        return self.filled_up(rng, chosen, self.samples_per_class)


def coreset(rng: np.random.Generator, points: Tensor, n: int, exponent: float) -> np.ndarray:
    """points (M, D) float64 -> n different rows, by the probabilities above."""
    density = log_density(points).numpy()
    distances = pairwise_squared_distances(points).numpy()
    log_weight, spread = density.copy(), np.zeros(len(points))
    chosen: list[int] = []
    while len(chosen) < n:
        weight = np.exp(log_weight - log_weight.max())
        chosen.append(int(rng.choice(len(points), p=weight / weight.sum())))
        spread += distances[chosen[-1]]
        log_weight = density + exponent * np.log(np.maximum(spread, np.finfo(float).tiny))
        log_weight[chosen] = -np.inf
    return np.array(chosen)


def log_density(points: Tensor) -> Tensor:
    """The logarithm of N at each point (M,), up to a constant."""
    centred = points - points.mean(0)
    covariance = centred.T @ centred / max(len(points) - 1, 1)
    ridge = 1e-6 * covariance.diagonal().mean() + torch.finfo(torch.float64).tiny
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)).double())
    return -torch.linalg.solve_triangular(factor, centred.T, upper=False).square().sum(0) / 2
