"""k-means by faiss, for the metrics of clusters and for deep clustering."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from utilities import faiss_gpu

ITERATIONS, SEED = 20, 1234


def k_means(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Centroids (k, D) float32, and the nearest one of each point (N,) int64, on its device.

    points (N, D) float32, finite, N >= k. Every point takes part in every iteration; a cluster may
    end up empty. On a GPU where the points lie on one and faiss can use it, otherwise on the CPU.
    """
    rows = np.ascontiguousarray(points.detach().cpu().numpy())
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.seed = ITERATIONS, SEED
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, len(rows)
    clustering = faiss.Clustering(rows.shape[1], k, parameters)
    if faiss_gpu.usable(points.device):
        with faiss_gpu.memory():
            nearest = _cluster(clustering, rows, _gpu_index(rows.shape[1], points.device))
    else:
        nearest = _cluster(clustering, rows, faiss.IndexFlatL2(rows.shape[1]))
    centroids = faiss.vector_to_array(clustering.centroids).reshape(k, -1)
    return (torch.from_numpy(centroids).to(points.device),
            torch.from_numpy(nearest).to(points.device))


def _cluster(clustering: faiss.Clustering, rows: np.ndarray, index: faiss.Index) -> np.ndarray:
    """(N,) int64: the nearest centroid of each row; `index`, empty, then holds the centroids."""
    clustering.train(rows, index)
    return index.search(rows, 1)[1][:, 0]


def _gpu_index(dim: int, device: torch.device) -> faiss.Index:
    options = faiss.GpuIndexFlatConfig()
    options.device = device.index or 0
    return faiss.GpuIndexFlatL2(faiss_gpu.resources(options.device), dim, options)
