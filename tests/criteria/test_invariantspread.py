import pytest
import torch
import torch.nn.functional as F
from torch import nn

import criteria
from criteria.invariantspread import Criterion


class OnHalves(nn.Module):
    """The criterion on the two halves of one tensor, as the comparison with an oracle calls it."""

    def __init__(self, temperature):
        super().__init__()
        self.criterion = Criterion(temperature=temperature)

    def forward(self, x, labels):
        return self.criterion(*x.chunk(2))


def naive(x, temperature):
    """p_ij over loops; the right factor is a constant."""
    n, total = len(x), 0
    for i in range(n):
        twin = (i + n // 2) % n
        e = {k: torch.exp(x[i] @ x[k].detach() / temperature) for k in range(n) if k != i}
        z = sum(e.values())
        total = total + torch.log(e[twin] / z)
        total = total + sum(torch.log(1 - e[j] / z) for j in e if j != twin)
    return -total / n


def test_golden(golden, make_opt):
    arrays, _ = golden("criteria")
    heads = [arrays[f"invariantspread.head{i}"].clone().requires_grad_() for i in (1, 2)]
    loss = criteria.select("invariantspread", make_opt(), n_classes=2)(*heads)
    loss.backward()
    assert loss.item() == pytest.approx(arrays["invariantspread.loss"].item(), rel=1e-3)
    for i, head in enumerate(heads, 1):
        expected = arrays[f"invariantspread.grad{i}"]
        assert (head.grad - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_agrees_with_a_loop_whose_right_factor_is_constant(batch, agree, temperature):
    agree(OnHalves(temperature), lambda x: naive(x, temperature), batch.unit, None)


def test_agrees_with_a_loop_where_a_stranger_is_nearer_than_the_twin(agree):
    """p of the stranger lies within 1e-6 of 1, where 1 - p has no digits left in fp32."""
    x = F.normalize(torch.randn(8, 6), dim=1)
    x[1] = F.normalize(x[0] + 0.01 * x[2], dim=0)
    assert agree(OnHalves(0.05), lambda x: naive(x, 0.05), x, None) > 3


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", ["equal", "opposite", "twins", "strangers", "zero", "long"])
def test_degenerate_batches_stay_finite(kind, n, temperature):
    x = F.normalize(torch.randn(n, 6), dim=1)
    other = F.normalize(torch.randn(n, 6), dim=1)
    heads = {"equal": (x[:1].repeat(n, 1), x[:1].repeat(n, 1)), "opposite": (x, -x),
             "twins": (x, x), "strangers": (x[:1].repeat(n, 1), other),
             "zero": (0 * x, 0 * x), "long": (10 * x, 10 * other)}[kind]
    heads = [head.clone().requires_grad_() for head in heads]
    loss = Criterion(temperature=temperature)(*heads)
    loss.backward()
    assert loss.isfinite() and all(head.grad.isfinite().all() for head in heads)
    if n == 1:
        assert loss == 0 and not any(head.grad.any() for head in heads)


def test_temperature_follows_its_flag(make_opt):
    criterion = criteria.select("invariantspread", make_opt("--diva_instdiscr_temperature", 0.3),
                                n_classes=2)
    assert criterion.temperature == 0.3 and criterion.lr is None


def test_nothing_waits_for_the_device(batch, without_waiting):
    heads = batch.unit.clone().requires_grad_().chunk(2)
    with without_waiting:
        Criterion(temperature=0.1)(*heads).backward()
