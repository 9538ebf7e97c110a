"""The map's two dimensions."""

import numpy as np
import pytest
import torch

from evaluation.projection import METHODS, project


def test_pca_is_that_of_scikit_learn_up_to_signs():
    from sklearn.decomposition import PCA

    points = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)
    expected = PCA(2).fit_transform(points.double().numpy())
    np.testing.assert_allclose(np.abs(project(points, "pca")), np.abs(expected), rtol=1e-4,
                               atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_projecting_twice_gives_the_same_coordinates(method):
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    first = project(points, method)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, project(points, method))


def test_tsne_keeps_clusters_apart():
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    points[20:] += 50
    first, second = np.split(project(points, "tsne"), 2)
    within = np.linalg.norm(first - first.mean(0), axis=1).max()
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > within


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (5, 1), (6, 3)])
def test_few_points_and_dimensions_and_equal_points_have_coordinates(method, shape):
    for points in (torch.ones(shape), torch.arange(float(np.prod(shape))).reshape(shape)):
        flat = project(points, method)
        assert flat.shape == (shape[0], 2)
        assert np.isfinite(flat).all()
