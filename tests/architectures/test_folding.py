import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from architectures import backbones, folding


def block(bias=False, **batchnorm):
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias),
                         nn.BatchNorm2d(6, **batchnorm), nn.ReLU(inplace=True))


def randomise(network):
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 3)
            nn.init.uniform_(norm.weight, -1, 2)
            nn.init.normal_(norm.bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_those_of_convolution_and_batchnorm(bias, training):
    network = block(bias)
    randomise(network)
    folded = copy.deepcopy(network)
    assert folding.fold(folded) == 1
    assert list(folded.state_dict()) == list(network.state_dict())
    images = torch.randn(5, 3, 9, 9)
    weights = torch.randn(5, 6, 5, 5)
    results = []
    for each in (network, folded):
        x = images.clone().requires_grad_()
        y = each.train(training)(x)
        (y * weights).sum().backward()
        results.append([y, x.grad, *(p.grad for p in each.parameters()), *each.buffers()])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_it_is_double_precise_in_double():
    network = block(bias=True).double()
    randomise(network)
    folded = copy.deepcopy(network).eval()
    folding.fold(folded)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(folded(images), network.eval()(images), atol=1e-12, rtol=1e-12)


class Shared(nn.Module):
    """The convolution's output is also used beside the BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.conv(x)
        return F.relu(self.norm(x)) + x


class Twice(Shared):
    """One convolution before two BatchNorms' calls."""

    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.conv(-x))


class Undecided(Shared):
    """Control flow over data: cannot be traced."""

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else self.norm(self.conv(-x))


@pytest.mark.parametrize("make", [
    Shared, Twice, Undecided,
    lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)),
    lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
    lambda: block(affine=False), lambda: block(track_running_stats=False)])
def test_what_cannot_be_folded_stays(make):
    network = make().eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    assert folding.fold(network) == 0
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("name, pairs", [("resnet50", 53), ("bninception", 69)])
def test_every_batchnorm_of_the_paper_s_networks_is_folded(name, pairs):
    network = backbones.build(name)
    assert folding.fold(network) == pairs
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())


@pytest.mark.parametrize("name, pairs, of", [
    ("resnet18", 20, 20), ("mobilenetv3_small_100", 34, 34), ("densenet121", 59, 121),
    ("tf_efficientnet_lite0", 44, 49),      # five convolutions pad by themselves
    ("seresnet18", 20, 20), ("vit_tiny_patch16_224", 0, 0)])
def test_timm_s_networks_compute_the_same(name, pairs, of):
    pytest.importorskip("timm")
    network = backbones.build(f"timm:{name}", 224).eval()
    randomise(network)
    images = torch.randn(2, 3, 224, 224)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == of
    with torch.no_grad():
        expected = network(images)
        assert folding.fold(network.train()) == pairs
        torch.testing.assert_close(network.eval()(images), expected, atol=1e-4, rtol=1e-4)


def test_less_is_kept_for_the_backward_pass():
    def kept(network):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(8, 3, 64, 64)).sum()
        return sum(sizes.values())

    network = nn.Sequential(block(), nn.Conv2d(6, 16, 3), nn.BatchNorm2d(16), nn.ReLU(True)).eval()
    folded = copy.deepcopy(network)
    folding.fold(folded)
    assert kept(folded) < 0.7 * kept(network)
