import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import architectures
from architectures.backbones import Pooled
from architectures.network import PRECISIONS, Network

FEATURES = ["discriminative", "selfsimilarity", "shared", "intra"]


class Tiny(nn.Module):
    """Two convolutions, the second without a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3)

    def forward(self, images):
        return F.relu(self.conv2(F.relu(self.bn1(self.conv1(images))))).mean((2, 3))


def tiny(features=FEATURES, *, frozen=False, normalize=True, precision=None):
    return Network(Pooled(Tiny(), lambda model, images: model(images)), 12, features=features,
                   embed_dim=5, frozen=frozen, normalize=normalize, precision=precision)


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("arch, feature_dim", [
    ("resnet50_frozen_normalize", 2048), ("bninception_normalize", 1024), ("resnet18", 512)])
def test_heads_and_trunk_of_the_networks_by_name(make_opt, images, arch, feature_dim):
    opt = make_opt("--not_pretrained", "--crop_size", 32, "--embed_dim", 7,
                   "--diva_features", *FEATURES, "--diva_ssl", "moco")
    network = architectures.select(arch, opt)
    embeddings, trunk = network(images)
    assert network.feature_dim == feature_dim and trunk.shape == (4, feature_dim)
    assert list(embeddings) == FEATURES
    for embedding in embeddings.values():
        assert embedding.shape == (4, 7) and embedding.dtype == torch.float32
        norms = embedding.norm(dim=1)
        unit = torch.allclose(norms, torch.ones(4), atol=1e-5)
        assert unit == ("normalize" in arch)


def test_embeddings_are_the_heads_of_the_trunk(images):
    network = tiny(normalize=True).eval()
    embeddings, trunk = network(images)
    for feature, head in network.heads.items():
        torch.testing.assert_close(
            embeddings[feature], F.normalize(F.linear(trunk, head.weight, head.bias)))
    torch.testing.assert_close(network.trunk(images), trunk)


def test_the_state_dict_has_the_names_of_the_original():
    names = set(tiny(["discriminative"]).state_dict())
    head = "model.last_linear.discriminative"
    assert {"model.conv1.weight", "model.bn1.running_mean", f"{head}.weight",
            f"{head}.bias"} <= names


def test_frozen_keeps_batchnorm_statistics_but_trains_its_affine(images):
    network = tiny(frozen=True)
    for moment in (network, network.eval(), network.train()):
        norm = moment.model.bn1
        assert not norm.training
    assert network.training and network.model.conv1.training
    before = norm.running_mean.clone(), norm.running_var.clone()
    embeddings, _ = network(images)
    embeddings["shared"].sum().backward()
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])
    assert norm.weight.grad.abs().sum() > 0 and norm.bias.grad.abs().sum() > 0


def test_without_frozen_batchnorm_follows_the_mode(images):
    network = tiny()
    before = network.model.bn1.running_mean.clone()
    network(images)
    assert not torch.equal(network.model.bn1.running_mean, before)
    after = network.model.bn1.running_mean.clone()
    network.eval()(images)
    assert torch.equal(network.model.bn1.running_mean, after)


def test_heads_of_dc_and_imrot_stay_random_projections():
    network = tiny(["discriminative", "dc", "imrot"])
    for feature, head in network.heads.items():
        for parameter in head.parameters():
            assert parameter.requires_grad == (feature == "discriminative")
    groups = network.parameter_groups(lr=1.0, fc_lr=-1, decay=0.5)
    left_out = {id(p) for f in ("dc", "imrot") for p in network.heads[f].parameters()}
    held = [id(p) for group in groups for p in group["params"]]
    assert not left_out & set(held)
    assert sorted(held) == sorted(id(p) for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("fc_lr, expected", [(-1, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_parameter_groups_give_the_heads_their_rate(fc_lr, expected):
    network = tiny()
    backbone, heads = network.parameter_groups(lr=0.1, fc_lr=fc_lr, decay=4e-4)
    assert (backbone["lr"], heads["lr"]) == (0.1, expected)
    assert backbone["weight_decay"] == heads["weight_decay"] == 4e-4
    assert {id(p) for p in heads["params"]} == {id(p) for p in network.heads.parameters()}
    torch.optim.Adam([backbone, heads])


def test_a_copy_is_a_network_of_its_own(make_opt, images):
    """The key network: pretrainedmodels binds methods to its objects; they must follow the copy."""
    opt = make_opt("--not_pretrained", "--crop_size", 32)
    network = architectures.select("resnet50_frozen_normalize", opt)
    twin = copy.deepcopy(network)
    expected = network(images)[1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.fill_(7)
    torch.testing.assert_close(twin(images)[1], expected)
    assert network(images)[1].abs().sum() == 0
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(images)[1], expected)


def dtypes_seen(network):
    """{kind of layer: dtypes of its outputs}, filled as the network computes."""
    seen = {nn.Conv2d: set(), nn.Linear: set()}
    for module in network.modules():
        if type(module) in seen:
            module.register_forward_hook(lambda m, _, output: seen[type(m)].add(output.dtype))
    return seen


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name, precision", PRECISIONS.items())
def test_the_network_gives_float32_in_every_precision(images, frozen, name, precision):
    """The backbone computes in it, the heads compute in float32, and so does the key network,
    which is a copy."""
    plain = tiny(frozen=frozen)
    expected = copy.deepcopy(plain)(images)[0]
    plain.precision = precision
    network = copy.deepcopy(plain)
    seen = dtypes_seen(network)
    embeddings, trunk = network(images)
    assert seen == {nn.Conv2d: {precision or torch.float32}, nn.Linear: {torch.float32}}
    assert trunk.dtype == network.trunk(images).dtype == torch.float32
    assert network.trunk(images).equal(trunk) or not frozen
    for feature, embedding in embeddings.items():
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)
        torch.testing.assert_close(embedding, expected[feature], atol=0.03, rtol=0)
    sum(e[:, 0].sum() for e in embeddings.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    with torch.inference_mode():
        assert network.eval()(images)[1].dtype == torch.float32


@pytest.mark.parametrize("name, precision", [("fp32", None), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_the_command_line(make_opt, name, precision):
    opt = make_opt("--not_pretrained", "--crop_size", 32, "--precision", name)
    assert architectures.select("resnet18_normalize", opt).precision == precision


def test_channels_last_computes_the_same(images):
    network = tiny(frozen=True)
    expected = network(images)[1]
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images.to(memory_format=torch.channels_last))[1], expected)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_compiled_computes_the_same(images, frozen):
    network = tiny(frozen=frozen)
    plain = copy.deepcopy(network)
    network.compile()
    for mode in (True, False):
        ours, expected = network.train(mode)(images)[0], plain.train(mode)(images)[0]
        for feature in FEATURES:
            torch.testing.assert_close(ours[feature], expected[feature], atol=1e-5, rtol=1e-4)
        for embeddings in (ours, expected):
            sum(e[:, 0].sum() for e in embeddings.values()).backward()
    for parameter, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, atol=1e-4, rtol=1e-3)
