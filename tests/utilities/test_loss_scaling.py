import pytest
import torch
from torch import nn

from utilities.loss_scaling import LossScaling


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_gradients_and_steps_are_the_plain_ones(precision):
    layer, images = nn.Linear(4, 3), torch.randn(2, 4)
    scaling = LossScaling(precision, torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    expected = torch.autograd.grad(layer(images).sum(), layer.weight)[0]
    weight = layer.weight.detach().clone()
    for _ in range(2):      # the second replaces the gradients of the first
        scaling.backward(layer(images).sum(), optimiser)
    torch.testing.assert_close(layer.weight.grad, expected)
    assert scaling.step(optimiser) is None
    torch.testing.assert_close(layer.weight, weight - 0.1 * expected)


def test_fp16_skips_a_step_whose_gradient_overflows_and_lowers_the_scale():
    layer = nn.Linear(2, 1)
    scaling = LossScaling("fp16", torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    weight, scale = layer.weight.detach().clone(), scaling.scaler.get_scale()
    scaling.backward(layer(torch.ones(1, 2)).sum() * 3e38, optimiser)
    scaling.step(optimiser)
    assert torch.equal(layer.weight, weight)
    assert scaling.scaler.get_scale() < scale
    scaling.backward(layer(torch.ones(1, 2)).sum(), optimiser)
    torch.testing.assert_close(layer.weight.grad, torch.ones(1, 2))
    scaling.step(optimiser)
    assert not torch.equal(layer.weight, weight)


def test_overflow_is_put_down_to_the_scale_only_while_the_loss_is_scaled_up():
    layer = nn.Linear(2, 1)
    scaling = LossScaling("fp16", torch.device("cpu"))
    optimiser = torch.optim.SGD(layer.parameters())
    scaled_up = []
    for _ in range(20):
        scaling.backward(layer(torch.ones(1, 2)).sum() * torch.inf, optimiser)
        scaled_up.append(scaling.step(optimiser).item())
    assert scaled_up == [True] * 16 + [False] * 4     # the scale starts at 2^16 and is halved
