"""k-means by faiss, for the metrics of clusters and for deep clustering."""

import contextlib

import faiss
import numpy as np
import torch
from torch import Tensor

from utilities import faiss_gpu
from utilities.errors import TrainingError
from utilities.geometry import unusable_rows

ITERATIONS, SEED = 20, 1234


def k_means(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Centroids (k, D) float32, and the nearest one of each point (N,) int64, on its device.

    points (N, D) float32, N >= k. Every point takes part in every iteration; a cluster may end up
    empty. On a GPU where the points lie on one and faiss can use it, otherwise on the CPU.
    TrainingError for points whose squared distances overflow, with which faiss ends the process.
    """
    bad, why = unusable_rows(points)
    if len(bad):
        raise TrainingError(f"{len(bad):,} of {len(points):,} points {why}: cannot cluster them")
    rows = np.ascontiguousarray(points.detach().cpu().numpy())
    dim, on_gpu = rows.shape[1], faiss_gpu.usable(points.device)
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.seed = ITERATIONS, SEED
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, len(rows)
    clustering = faiss.Clustering(dim, k, parameters)
    with faiss_gpu.memory() if on_gpu else contextlib.nullcontext():
        index = _gpu_index(dim, points.device) if on_gpu else faiss.IndexFlatL2(dim)
        clustering.train(rows, index)       # which leaves the centroids in the index
        nearest = index.search(rows, 1)[1][:, 0]
    centroids = faiss.vector_to_array(clustering.centroids).reshape(k, -1)
    return (torch.from_numpy(centroids).to(points.device),
            torch.from_numpy(nearest).to(points.device))


def _gpu_index(dim: int, device: torch.device) -> faiss.Index:
    options = faiss.GpuIndexFlatConfig()
    options.device = device.index or 0
    return faiss.GpuIndexFlatL2(faiss_gpu.resources(options.device), dim, options)
