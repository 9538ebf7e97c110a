"""Batches that resemble the data: the best of C random subsets of M random candidates.

The subset with the smallest value is chosen. mu, sigma and Sigma are mean, standard deviation and
covariance of the candidates' embeddings, p their pairwise Euclidean distances; a hat marks those of
the subset:

    fid_batchmatch           |mu - mu^|^2 + tr(Sigma + Sigma^ - 2 (Sigma Sigma^)^(1/2)), the
    spc_fid_batchmatch       squared Frechet distance between two Gaussians
    firstmoment_batchmatch   |mu - mu^|
    distmoment_batchmatch    |mu - mu^| + |sigma - sigma^|
                             + 5 |mean(p) - mean(p^)| + 5 |std(p) - std(p^)|
    disthist_batchmatch      |mu - mu^| + |sigma - sigma^| + 75 W(h, h^), the Wasserstein distance
                             of the distances' histograms (50 bins)
    criterion_batchmatch     the discriminative criterion at the beginning of the epoch

A subset has B/S images, each followed in the batch by S - 1 random images of its class; for
`spc_fid_batchmatch` and `criterion_batchmatch` candidates and subsets are drawn class by class, S
images each, and all images of a subset are compared.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from datasampler.base import BatchSampler
from datasampler.storage import Storage, pairwise_squared_distances
from utilities.errors import refuse
from utilities.random_streams import stream

N_BINS = 50


class Sampler(BatchSampler):
    def __init__(self, labels: np.ndarray, name: str, *, n_subsets: int, **shared):
        """shared: see `BatchSampler`."""
        super().__init__(labels, **shared)
        self.n_subsets = n_subsets
        self.by_class = name in ("spc_fid_batchmatch", "criterion_batchmatch")
        self.distance = DISTANCES.get(name)
        self.criterion = None

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        if name == "criterion_batchmatch" and opt.data_sampler_lowproj_dim > 0:
            given = opt.data_sampler_lowproj_dim
            refuse("--data_sampler_lowproj_dim",
                   f"{given} given, but criterion_batchmatch judges whole embeddings", "-1")
        return cls(dataset.labels, name, batch_size=opt.bs,
                   samples_per_class=opt.samples_per_class, seed=opt.seed,
                   n_subsets=opt.data_batchmatch_ncomps, storage=Storage.from_opt(opt, dataset))

    def bind(self, criterion) -> None:
        self.criterion = criterion

    def snapshot(self):
        """Copies on the host of the stored embeddings and, where it compares, of the criterion."""
        if self.distance is None and self.criterion is None:
            raise RuntimeError("criterion_batchmatch has no criterion: call bind(criterion) first")
        criterion = None if self.distance else copy.deepcopy(self.criterion).cpu()
        return super().snapshot(), criterion

    def draw(self, rng: np.random.Generator, snapshot) -> np.ndarray:
        embeddings, criterion = snapshot
        each = self.samples_per_class if self.by_class else 1
        if self.by_class:
            n_drawn = max(self.n_groups, self.storage.n_candidates // each)
            images = self.images_of(rng, self.random_classes(rng, n_drawn), each).ravel()
        else:
            images = self.storage.candidates(rng)
        points = self.storage.points(rng, embeddings, images)
        # (C, B/S) draws of `each` images in a row -> (C, B/S * each) rows of `images`, `points`.
        draws = rng.random((self.n_subsets, len(images) // each)).argsort(1)[:, :self.n_groups]
        subsets = (draws[..., None] * each + np.arange(each)).reshape(self.n_subsets, -1)
        values = (self.losses(criterion, points, images, subsets, rng) if criterion is not None
                  else self.distance(points, torch.from_numpy(subsets)).numpy())
        chosen = images[subsets[np.nan_to_num(values, nan=np.inf).argmin()]]
        return chosen if self.by_class else self.filled_up(rng, chosen, self.samples_per_class)

    def losses(self, criterion, points: Tensor, images: np.ndarray, subsets: np.ndarray,
               rng: np.random.Generator) -> np.ndarray:
        """The loss of each subset (C,). The criterion's miner is seeded by `rng`."""
        embeddings, labels = points.float(), torch.from_numpy(self.labels[images])
        with stream(int(rng.integers(2**63))), torch.no_grad():
            return np.array([float(criterion(embeddings[subset], labels[subset]))
                             for subset in torch.from_numpy(subsets)])


def frechet(points: Tensor, subsets: Tensor) -> Tensor:
    """points (M, D) float64, subsets (C, n) rows of it -> (C,), as all distances below.

    With X the centred subset over sqrt(n - 1), Sigma^ = X'X, and the nonzero eigenvalues of
    Sigma Sigma^ are those of the symmetric (n, n) matrix X Sigma X', so no matrix root is needed.
    """
    mean, centred = moments(points[None])
    sigma = (centred.mT @ centred)[0]
    means, subset = moments(points[subsets])
    eigenvalues = torch.linalg.eigvalsh(subset @ sigma @ subset.mT).clamp(min=0)
    traces = sigma.trace() + subset.square().sum((1, 2)) - 2 * eigenvalues.sqrt().sum(1)
    return (mean - means).square().sum(1) + traces


def distance_moments(points: Tensor, subsets: Tensor) -> Tensor:
    pairs, of_subsets = pairwise(points, subsets)
    return (first_moment(points, subsets) + second_moment(points, subsets)
            + 5 * (of_subsets.mean(1) - pairs.mean()).abs()
            + 5 * (deviation(of_subsets) - deviation(pairs)).abs())


def first_moment(points: Tensor, subsets: Tensor) -> Tensor:
    return (points[subsets].mean(1) - points.mean(0)).norm(dim=1)


def second_moment(points: Tensor, subsets: Tensor) -> Tensor:
    return (deviation(points[subsets].mT) - deviation(points.mT)).norm(dim=1)


def distance_histograms(points: Tensor, subsets: Tensor) -> Tensor:
    """The histograms share their bins, from 0 to the candidates' largest distance."""
    pairs, of_subsets = pairwise(points, subsets)
    width = pairs.max().clamp(min=1e-12) / N_BINS

    def cumulative(distances: Tensor) -> Tensor:
        bins = (distances / width).long().clamp(max=N_BINS - 1)
        counts = torch.zeros(*bins.shape[:-1], N_BINS, dtype=torch.float64)
        counts.scatter_add_(-1, bins, torch.ones_like(distances))
        return (counts / bins.shape[-1]).cumsum(-1)

    wasserstein = width * (cumulative(of_subsets) - cumulative(pairs)).abs().sum(1)
    return first_moment(points, subsets) + second_moment(points, subsets) + 75 * wasserstein


def moments(sets: Tensor) -> tuple[Tensor, Tensor]:
    """(C, n, D) -> means (C, D); X (C, n, D) with X'X the unbiased covariance, 0 if n = 1."""
    means = sets.mean(1)
    return means, (sets - means[:, None]) / max(sets.shape[1] - 1, 1) ** 0.5


def deviation(values: Tensor) -> Tensor:
    """Unbiased standard deviation over the last dimension; 0 for a single value."""
    return values.std(-1) if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])


def pairwise(points: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of all pairs of points (M (M-1)/2,) and of each subset's pairs (C, n (n-1)/2); a
    single point has one distance, 0."""
    distances = pairwise_squared_distances(points).sqrt()

    def pairs(n: int) -> tuple[Tensor, Tensor]:
        return tuple(torch.triu_indices(n, n, offset=int(n > 1)))

    i, j = pairs(subsets.shape[1])
    return distances[pairs(len(points))], distances[subsets[:, i], subsets[:, j]]


DISTANCES = {"fid_batchmatch": frechet, "spc_fid_batchmatch": frechet,
             "distmoment_batchmatch": distance_moments, "firstmoment_batchmatch": first_moment,
             "disthist_batchmatch": distance_histograms}
