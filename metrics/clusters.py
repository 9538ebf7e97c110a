"""k-means over faiss, and the table of classes against clusters."""

from __future__ import annotations

import faiss
import torch
from torch import Tensor

from metrics import neighbours

ITERATIONS, SEED = 20, 1234


def k_means(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Centroids (k, D) float32 and the nearest centroid (N,) int64 of every row, on its device.

    features (N, D) float32, N >= k. Every row takes part in every iteration; a cluster may end up
    empty. On the features' own GPU, where faiss was built for it, else on the CPU.
    """
    rows = features.cpu().numpy()
    means = faiss.Kmeans(rows.shape[1], k, niter=ITERATIONS, seed=SEED, gpu=False,
                         min_points_per_centroid=1, max_points_per_centroid=len(rows))
    means.index = neighbours.flat_index(rows.shape[1], features.device)
    means.train(rows)
    _, nearest = means.assign(rows)
    return (torch.from_numpy(means.centroids).to(features.device),
            torch.from_numpy(nearest).reshape(-1).long().to(features.device))


def contingency(classes: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many images share class and cluster, class, and cluster: int64 counts, none of them 0."""
    _, classes, class_sizes = classes.unique(return_inverse=True, return_counts=True)
    _, clusters, cluster_sizes = clusters.unique(return_inverse=True, return_counts=True)
    _, shared = (classes * len(cluster_sizes) + clusters).unique(return_counts=True)
    return shared, class_sizes, cluster_sizes
