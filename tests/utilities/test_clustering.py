"""k-means by faiss."""

import faiss
import numpy as np
import pytest
import torch

from utilities.clustering import k_means
from utilities.errors import TrainingError


def test_every_point_takes_part_in_twenty_iterations():
    """On points that lie in no clusters, where fewer iterations or points end elsewhere."""
    points = np.random.default_rng(0).normal(size=(1200, 4)).astype(np.float32)

    def by_faiss(niter, n_points):
        means = faiss.Kmeans(4, 12, niter=niter, seed=1234, max_points_per_centroid=n_points // 12)
        means.train(points)
        return means.assign(points)[1]

    centroids, assignment = k_means(torch.from_numpy(points), 12)
    assert centroids.shape == (12, 4) and assignment.dtype == torch.int64
    assert (assignment.numpy() == by_faiss(20, 1200)).mean() > 0.99
    for niter, n_points in ((2, 1200), (20, 96)):
        assert (assignment.numpy() == by_faiss(niter, n_points)).mean() < 0.99


@pytest.mark.parametrize("points, k", [
    (torch.ones(20, 4), 7), (torch.randn(2, 4).repeat(10, 1), 7), (torch.randn(5, 4), 5),
    (torch.randn(1, 4), 1), (torch.randn(2, 1), 2)],
    ids=["one point", "two points", "as many clusters as points", "one image", "two images"])
def test_few_distinct_points_are_clustered(points, k, capfd):
    centroids, assignment = k_means(points, k)
    assert centroids.shape == (k, points.shape[1])
    assert assignment.shape == (len(points),)
    nearest = torch.cdist(points, centroids)
    assert torch.allclose(nearest.gather(1, assignment[:, None])[:, 0], nearest.min(1).values,
                          atol=1e-3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_a_gpu_clusters_as_the_cpu_does():
    points = torch.randn(3000, 16)
    _, assignment = k_means(points, 40)
    centroids, nearest = k_means(points.cuda(), 40)
    assert centroids.is_cuda and nearest.is_cuda
    assert (nearest.cpu() == assignment).float().mean() > 0.98


@pytest.mark.parametrize("value, why", [(torch.nan, "not finite"), (1e19, "so large")])
def test_points_with_which_faiss_ends_the_process_are_refused(value, why):
    points = torch.randn(20, 4)
    points[3:] += value
    with pytest.raises(TrainingError, match=rf"^17 of 20 points are {why}.*: cannot cluster them$"):
        k_means(points, 4)
