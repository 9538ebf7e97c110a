import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from datasampler.d2_coreset import coreset, log_density


def test_the_density_is_a_gaussian_s():
    points = torch.randn(60, 4).double() @ torch.randn(4, 4).double() + 2
    gaussian = multivariate_normal(points.mean(0).numpy(), np.cov(points.T.numpy()))
    expected = gaussian.logpdf(points.numpy())
    ours = log_density(points).numpy()
    np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=1e-3)


@pytest.mark.parametrize("points", [
    torch.zeros(5, 3), torch.ones(5, 3) * 1e5, torch.randn(4, 50), torch.randn(1, 3).repeat(6, 1),
    torch.nn.functional.normalize(torch.randn(30, 3)), torch.randn(1, 3)],
    ids=["zeros", "far ones", "fewer than dimensions", "copies", "unit rows", "one"])
def test_degenerate_candidates_have_a_density_and_a_coreset(points):
    assert log_density(points.double()).isfinite().all()
    for exponent in (0.0, 1.0, 3.0):
        chosen = coreset(np.random.default_rng(0), points.double(), len(points), exponent)
        assert sorted(chosen) == list(range(len(points)))


class Watched:
    """A generator that notes the probabilities it is given."""

    def __init__(self):
        self.rng, self.given = np.random.default_rng(0), []

    def choice(self, n, p):
        self.given.append(p)
        return self.rng.choice(n, p=p)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_points_are_drawn_with_the_probabilities_of_the_formula(exponent):
    points = torch.randn(12, 3).double()
    density, rng = np.exp(log_density(points).numpy()), Watched()
    chosen = coreset(rng, points, 7, exponent)
    for n, given in enumerate(rng.given):
        weights = [0.0] * 12
        for i in set(range(12)) - set(chosen[:n].tolist()):
            spread = sum(float((points[i] - points[j]).square().sum()) for j in chosen[:n])
            weights[i] = density[i] * (spread ** exponent if n else 1)
        np.testing.assert_allclose(given, np.array(weights) / sum(weights), atol=1e-9)
