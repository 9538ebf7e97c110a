"""k-means over faiss, and the table of classes against clusters."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from metrics import neighbours

ITERATIONS, SEED = 20, 1234
NUDGE = np.float32(1 / 1024)  # by which the halves of a cluster that is split lie apart


def k_means(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Centroids (k, D) float32 and the nearest centroid (N,) int64 of every row, on its device.

    features (N, D) float32, N >= k. Every row takes part in every iteration; a cluster may end up
    empty. By faiss, or on a GPU that it was not built for by the same iterations with torch.
    """
    if features.is_cuda and not faiss.get_num_gpus():
        return _with_torch(features, k)
    rows = features.cpu().numpy()
    means = faiss.Kmeans(rows.shape[1], k, niter=ITERATIONS, seed=SEED, gpu=False,
                         min_points_per_centroid=1, max_points_per_centroid=len(rows))
    means.index = neighbours.flat_index(rows.shape[1], features.device)
    means.train(rows)
    _, nearest = means.assign(rows)
    return (torch.from_numpy(means.centroids).to(features.device),
            torch.from_numpy(nearest).reshape(-1).long().to(features.device))


def _with_torch(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What faiss does, on the features' device: the rows that it starts from, and its splits."""
    n = len(features)
    start = np.arange(n, dtype=np.int32)
    if n > k:
        faiss.rand_perm(faiss.swig_ptr(start), n, SEED + 1)
    centroids = features[torch.from_numpy(start[:k]).to(features.device).long()]
    for _ in range(ITERATIONS if n > k else 0):
        nearest = _assign(features, centroids)
        sizes = nearest.bincount(minlength=k)
        sums = torch.segment_reduce(features[nearest.argsort(stable=True)], "sum", lengths=sizes)
        centroids = sums / sizes.clamp(min=1)[:, None]
        if (sizes == 0).any():
            split = _split(centroids.cpu().numpy(), sizes.cpu().numpy().astype(np.float32), n)
            centroids = torch.from_numpy(split).to(features.device)
    return centroids, _assign(features, centroids)


def _assign(features: Tensor, centroids: Tensor) -> Tensor:
    """(N,) int64: the nearest of `centroids` (k, D) to every row."""
    return torch.cat([found[:, 0] for _, found in neighbours.search(features, centroids, 1)])


def _split(centroids: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """`centroids` (k, D), where every empty cluster got half of another, drawn as faiss draws it:
    going round, each with a chance that grows with its size (float32). n: how many rows there are.
    """
    k, generator = len(sizes), np.random.RandomState(SEED)  # the Mersenne Twister, as in faiss
    nudge = np.where(np.arange(centroids.shape[1]) % 2, -NUDGE, NUDGE)
    draws = np.empty(0, dtype=np.float32)
    for empty in np.flatnonzero(sizes == 0):
        chosen: np.ndarray = draws[:0]
        while not len(chosen):
            if len(draws) < k:
                more = generator.randint(2**32, size=64 * k, dtype=np.uint32)
                draws = np.append(draws, more.astype(np.float32) / np.float32(2**32))
            chosen = np.flatnonzero(draws[:k] < (sizes - 1) / np.float32(n - k))[:1]
            draws = draws[chosen[0] + 1 if len(chosen) else k:]
        halved = chosen[0]
        centroids[empty] = centroids[halved] * (1 + nudge)
        centroids[halved] *= 1 - nudge
        sizes[empty] = sizes[halved] / 2
        sizes[halved] -= sizes[empty]
    return centroids


def contingency(classes: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many images share class and cluster, class, and cluster: int64 counts, none of them 0."""
    _, classes, class_sizes = classes.unique(return_inverse=True, return_counts=True)
    _, clusters, cluster_sizes = clusters.unique(return_inverse=True, return_counts=True)
    _, shared = (classes * len(cluster_sizes) + clusters).unique(return_counts=True)
    return shared, class_sizes, cluster_sizes
