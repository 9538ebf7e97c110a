import pytest
import torch
from torch import nn

from utilities.precision import Precision, full_precision


class Multiply:
    @full_precision
    def __call__(self, values, matrix, extra=None):
        self.seen = extra
        return values @ matrix["m"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_full_precision_computes_in_fp32_inside_autocast(dtype):
    values, matrix = torch.randn(4, 4, dtype=dtype), torch.randn(4, 4, dtype=dtype)
    labels, multiply = torch.arange(4), Multiply()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = multiply(values, {"m": matrix}, labels)
    assert result.dtype == torch.float32
    assert multiply.seen is labels
    torch.testing.assert_close(result, values.float() @ matrix.float())


def test_full_precision_casts_keyword_arguments_too():
    values, matrix = torch.randn(4, 4).bfloat16(), {"m": torch.randn(4, 4).bfloat16()}
    labels, multiply = torch.arange(4), Multiply()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = multiply(extra=labels, matrix=matrix, values=values)
    assert result.dtype == torch.float32 and multiply.seen is labels
    torch.testing.assert_close(result, values.float() @ matrix["m"].float())


def test_fp32_leaves_everything_as_it_is():
    layer, images = nn.Linear(4, 3), torch.randn(2, 4)
    precision = Precision("fp32", torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    with precision.autocast():
        output = layer(images)
    assert torch.equal(output, layer(images))
    expected = torch.autograd.grad(layer(images).sum(), layer.weight)[0]
    weight = layer.weight.detach().clone()
    precision.backward(output.sum(), optimiser)
    assert torch.equal(layer.weight.grad, expected)
    precision.step(optimiser)
    torch.testing.assert_close(layer.weight, weight - 0.1 * expected)


def test_bf16_differs_from_fp32_by_its_rounding():
    layer, images = nn.Linear(64, 32), torch.randn(8, 64)
    with Precision("bf16", torch.device("cpu")).autocast():
        output = layer(images)
    assert output.dtype == torch.bfloat16
    difference = (output.float() - layer(images)).abs().max()
    assert 0 < difference < 0.03


def test_fp16_skips_a_step_whose_gradient_overflows_and_lowers_the_scale():
    layer = nn.Linear(2, 1)
    precision = Precision("fp16", torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    weight, scale = layer.weight.detach().clone(), precision.scaler.get_scale()
    precision.backward(layer(torch.ones(1, 2)).sum() * 3e38, optimiser)
    precision.step(optimiser)
    assert torch.equal(layer.weight, weight)
    assert precision.scaler.get_scale() < scale
    precision.backward(layer(torch.ones(1, 2)).sum(), optimiser)
    torch.testing.assert_close(layer.weight.grad, torch.ones(1, 2))
    precision.step(optimiser)
    assert not torch.equal(layer.weight, weight)


def test_gradients_are_excused_only_while_the_loss_is_scaled_up():
    layer = nn.Linear(2, 1)
    assert Precision("bf16", torch.device("cpu")).step(torch.optim.SGD(layer.parameters())) is None
    precision = Precision("fp16", torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters())
    excused = []
    for _ in range(20):
        precision.backward(layer(torch.ones(1, 2)).sum() * torch.inf, optimiser)
        excused.append(precision.step(optimiser).item())
    assert excused == [True] * 16 + [False] * 4     # the scale starts at 2^16 and is halved
