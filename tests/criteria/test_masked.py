import pytest
import torch

from criteria import masked

MASK = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])


@pytest.fixture
def values():
    return torch.randn(3, 3, requires_grad=True)


def test_mean_runs_over_the_valid_entries(values):
    valid = torch.tensor([True, False, True])
    assert masked.mean(values[0], valid).item() == pytest.approx(values[0, ::2].mean().item())
    nothing = masked.mean(values[0], torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0 and not values.grad.any()


def test_what_is_not_valid_may_be_infinite(values):
    sums = masked.log_sum_exp(values, MASK)
    mean = masked.mean(sums, MASK.any(1))
    mean.backward()
    assert mean.item() == pytest.approx(((sums[0] + sums[2]) / 2).item())
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("function, one", [(masked.log_sum_exp, 0),
                                           (masked.log_one_plus_sum_exp, 1)])
def test_sums_run_over_the_mask(values, function, one):
    result = function(values, MASK)
    expected = [torch.log(one + sum(torch.exp(v) for v in row[keep]) + torch.tensor(0.0))
                for row, keep in zip(values, MASK, strict=True)]
    assert result.tolist() == pytest.approx([e.item() for e in expected], rel=1e-5)
    result[[0, 2]].sum().backward()
    assert values.grad.isfinite().all() and not values.grad[~MASK].any()


@pytest.mark.parametrize("function", [masked.log_sum_exp, masked.log_one_plus_sum_exp])
def test_a_row_without_entries_has_no_gradient(values, function):
    function(values, MASK)[1].backward()
    assert values.grad.isfinite().all() and not values.grad.any()


def test_large_values_do_not_overflow(values):
    big = masked.log_one_plus_sum_exp(values * 0 + 1e4, MASK)
    assert big.tolist() == pytest.approx([1e4, 0, 1e4], rel=1e-3)
