import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utilities.geometry import (
    distances,
    log_sphere_density,
    paired_distance,
    squared_distances,
    unit,
    unusable_rows,
)


def test_all_pairs_agree_with_a_loop():
    x, y = torch.randn(5, 7), torch.randn(4, 7)
    squared, plain = squared_distances(x, y), distances(x, y)
    assert squared.shape == plain.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            expected = sum((float(a) - float(b)) ** 2 for a, b in zip(x[i], y[j], strict=True))
            assert float(squared[i, j]) == pytest.approx(expected, rel=1e-5)
            assert float(plain[i, j]) == pytest.approx(math.sqrt(expected), rel=1e-5)


def test_pairs_agree_with_a_loop_and_add_eps_under_the_root():
    x, y = torch.randn(6, 3), torch.randn(6, 3)
    for i, d in enumerate(paired_distance(x, y, eps=0.5)):
        expected = math.sqrt(sum((float(a) - float(b)) ** 2
                                 for a, b in zip(x[i], y[i], strict=True)) + 0.5)
        assert float(d) == pytest.approx(expected, rel=1e-5)
    assert paired_distance(x, x).tolist() == pytest.approx([1e-4] * 6)


def test_distances_have_the_right_gradient():
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(squared_distances, (x, y))
    assert torch.autograd.gradcheck(distances, (x, y))
    assert torch.autograd.gradcheck(paired_distance, (x, y[:4]))


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e3])
def test_equal_points_have_finite_gradients(scale):
    x = (torch.randn(1, 64) * scale).expand(8, -1).clone().requires_grad_()
    (distances(x, x).sum() + paired_distance(x, x).sum()).backward()
    assert x.grad.isfinite().all()


def test_rounding_makes_no_negative_square_and_no_distance_below_the_root_of_eps():
    x = torch.randn(100, 64).repeat(2, 1)  # many of these squares round below 0
    assert (squared_distances(x, x) >= 0).all()
    assert float(distances(x, x).min()) == pytest.approx(1e-4)
    assert float(distances(x, x, eps=0.25).min()) == 0.5


def test_unit_vectors_keep_the_spheres_range():
    x = torch.nn.functional.normalize(torch.randn(50, 128))
    d = distances(torch.cat([x, -x]), torch.cat([x, -x]))
    assert float(d.max()) <= 2 + 1e-5
    assert torch.allclose(d[:50, 50:].diagonal(), torch.full((50,), 2.0), atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3, 5, 128])
def test_log_density_is_the_formula_inside_the_sphere(dim):
    for d in (0.05, 0.5, 1.0, math.sqrt(2), 1.9):
        expected = math.log(d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2))
        density = log_sphere_density(torch.tensor(d * d), dim)
        assert float(density) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_log_density_describes_distances_of_uniform_points():
    """A histogram of sampled distances against q, normalised numerically."""
    dim = 6
    x, y = torch.randn(2, 200_000, dim).unbind()
    d = paired_distance(torch.nn.functional.normalize(x), torch.nn.functional.normalize(y))
    observed = torch.histc(d, bins=20, min=0, max=2) / len(d)
    grid = (torch.arange(2000) + 0.5) / 1000
    mass = log_sphere_density(grid.square(), dim).exp().reshape(20, 100).sum(1)
    assert torch.allclose(observed, mass / mass.sum(), atol=0.004)


@pytest.mark.parametrize("dim", [2, 3, 16, 512])
def test_distances_at_the_poles_and_beyond_stay_finite(dim):
    """The original gives NaN from a distance of 2 on, which rounding reaches."""
    d = torch.tensor([0.0, 1e-30, 1.9999999, 2.0, 2.0000002, 3.0, 1e4], requires_grad=True)
    log_q = log_sphere_density(d.square(), dim)
    log_q.sum().backward()
    assert log_q.isfinite().all() and d.grad.isfinite().all()


@given(st.floats(0, 1e6, width=32), st.integers(2, 2048))
def test_log_density_is_finite_everywhere(d, dim):
    assert log_sphere_density(torch.tensor(d).square(), dim).isfinite()


def test_rows_that_are_not_finite_are_found():
    x = torch.tensor([[1.0, -2], [torch.nan, 0], [0, torch.inf], [-torch.inf, 0], [-3e38, 3e38]])
    rows, why = unusable_rows(x)
    assert rows.tolist() == [1, 2, 3] and why == "are not finite"
    rows, why = unusable_rows(x[[0, 4]])
    assert rows.tolist() == [1] and "so large" in why


def test_unit_vectors_are_those_of_torch_until_the_norm_overflows():
    x = torch.randn(6, 3, requires_grad=True)
    for dim in (0, 1):
        assert unit(x, dim).equal(torch.nn.functional.normalize(x, dim=dim))
    unit(x).sum().backward()
    assert x.grad.isfinite().all()
    rows = unit(torch.tensor([[0.0, 0], [3e18, 4e18], [1e19, 2e19]]))
    torch.testing.assert_close(rows[:2], torch.tensor([[0.0, 0], [0.6, 0.8]]))
    assert rows[2].isnan().all()
