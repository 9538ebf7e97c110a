"""Embedding a split, and the embeddings that evaltypes derive."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datasets import Batch
from evaluation.embed import embed, searches, view
from metrics import mutual
from utilities.errors import RunError

FEATURES = ("discriminative", "shared")


class Images:
    """In place of a loader: `images` (N, 3, 4, 4) in batches of 4."""

    def __init__(self, n=10):
        self.images = torch.randn(n, 3, 4, 4)
        self.dataset = range(n)

    def __len__(self):
        return -(-len(self.images) // 4)

    def epoch(self, _epoch):
        for start in range(0, len(self.images), 4):
            images = self.images[start:start + 4]
            yield Batch(torch.zeros(len(images)), images, torch.arange(start, start + len(images)))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6),
                                   nn.Dropout(0.5))
        self.heads = nn.ModuleDict({name: nn.Linear(6, 3) for name in FEATURES})

    def forward(self, images):
        trunk = self.trunk(images)
        return {name: head(trunk) for name, head in self.heads.items()}, trunk


def test_rows_are_the_images_in_order_and_columns_the_features():
    network, loader = Network(), Images()
    embeddings = embed(network, loader, FEATURES)
    heads, _ = network.eval()(loader.images)
    assert embeddings.shape == (10, 6) and embeddings.dtype == torch.float32
    assert torch.allclose(embeddings[:, :3], heads["discriminative"], atol=1e-6)
    assert torch.allclose(embeddings[:, 3:], heads["shared"], atol=1e-6)


@pytest.mark.parametrize("features", [FEATURES[::-1], FEATURES[1:]], ids=["reversed", "one"])
def test_only_the_features_asked_for_are_kept_in_their_order(features):
    network, loader = Network(), Images()
    heads, _ = network.eval()(loader.images)
    expected = torch.cat([heads[name] for name in features], dim=1)
    torch.testing.assert_close(embed(network, loader, features), expected)


def test_the_network_computes_in_evaluation_mode_and_every_module_returns_to_its_own():
    network = Network()
    network.train()
    network.trunk[2].eval()  # as frozen BatchNorm is
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, second = (embed(network, Images(), FEATURES) for _ in range(2))
    assert network.training and network.trunk[3].training and not network.trunk[2].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not torch.equal(first, second)  # other images
    images = Images()
    assert torch.equal(embed(network, images, FEATURES), embed(network, images, FEATURES))


def test_modes_return_after_an_error():
    network = Network()
    loader = Images()
    loader.images = loader.images[:, :2]
    with pytest.raises(RuntimeError):
        embed(network, loader, FEATURES)
    assert network.training


def test_others_may_write_into_the_embeddings():
    embeddings = embed(Network(), Images(), FEATURES)
    embeddings[0] += 1
    assert not embeddings.requires_grad and not embeddings.is_inference()


def test_the_combined_embedding_agrees_with_the_golden_one(golden):
    tensors, cases = golden("criteria")
    features = ("discriminative", "selfsimilarity", "shared", "intra")
    heads = torch.cat([tensors[f"separation.{name}"] for name in features], dim=1)
    found = view(heads, cases["combined"], features, normalize=True)
    torch.testing.assert_close(found, tensors["combined"], rtol=1e-4, atol=1e-6)


@pytest.fixture
def heads():
    a, b = F.normalize(torch.randn(2, 5, 4), dim=2)
    return Namespace(a=a, b=b)


def test_a_feature_is_its_head_as_it_is(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    found = view(joined, "b", ("a", "b"), normalize=True)
    assert torch.equal(found, heads.b) and found.is_contiguous()


def test_combined_weighs_and_joins_in_the_evaltypes_order(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    found = view(joined, "Combined_b_a-2-0.5", ("a", "b"), normalize=False)
    assert torch.equal(found, torch.cat([2 * heads.b, 0.5 * heads.a], dim=1))


def test_sum_weighs_and_adds(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    found = view(joined, "Sum_a_b-2-0.5", ("a", "b"), normalize=False)
    assert torch.allclose(found, 2 * heads.a + 0.5 * heads.b)


@pytest.mark.parametrize("evaltype", ["Combined_a_b", "Sum_a_b"])
def test_an_embedding_of_zeros_stays_one(evaltype):
    assert torch.equal(view(torch.zeros(3, 8), evaltype, ("a", "b"), normalize=True).unique(),
                       torch.zeros(1))


@pytest.mark.parametrize("evaltype", ["Combined_a_b-2-0.5", "Sum_a_b-2-0.5"])
def test_mixtures_are_normalised_when_the_architecture_normalises(heads, evaltype):
    joined = torch.cat([heads.a, heads.b], dim=1)
    raw, unit = (view(joined, evaltype, ("a", "b"), normalize=flag) for flag in (False, True))
    assert torch.allclose(unit.norm(dim=1), torch.ones(5))
    assert torch.allclose(unit * raw.norm(dim=1, keepdim=True), raw, atol=1e-6)


EVALTYPES = ["b", "Combined_a_b-2-0.5", "Combined_b_a-3-0.5", "Combined_c_a", "Sum_a_b-1-2"]


@pytest.mark.parametrize("normalize", [True, False])
def test_neighbours_found_together_are_those_of_each_view(normalize, monkeypatch):
    monkeypatch.setattr(mutual, "TILE", 64)
    monkeypatch.setattr(mutual, "SMALLEST", 16)
    monkeypatch.setattr(mutual, "suits", lambda *_: True)
    passes, search = [], mutual.search
    monkeypatch.setattr(mutual, "search", lambda *given: passes.append(1) or search(*given))
    heads = torch.randn(3, 200, 4)
    heads = torch.cat(list(F.normalize(heads, dim=2) if normalize else heads), dim=1)
    together = searches(heads, EVALTYPES, "abc", normalize=normalize)
    assert list(together) == EVALTYPES[:4]      # a sum is no weighting of columns
    for evaltype, of_evaltype in together.items():
        (_, found), = of_evaltype(6)
        plain = torch.cdist(*[view(heads, evaltype, "abc", normalize=normalize).double()] * 2)
        assert torch.equal(found, plain.fill_diagonal_(torch.inf).topk(6, largest=False).indices)
    assert len(passes) == 1


def test_what_normalising_would_turn_or_has_no_company_is_searched_alone():
    heads = F.normalize(torch.randn(3, 200, 4), dim=2)
    unit = torch.cat(list(heads), dim=1)
    assert list(searches(unit, EVALTYPES, "abc", normalize=True)) == EVALTYPES[:4]
    assert not searches(unit, EVALTYPES[3:], "abc", normalize=True)
    for spoilt in (1.001, 0.999, 0):
        uneven = unit.clone()
        uneven[7, :4] *= spoilt     # in head a
        assert not searches(uneven, EVALTYPES, "abc", normalize=True)
        assert list(searches(uneven, ["a", "b", *EVALTYPES[1:], "Combined_b_c"], "abc",
                             normalize=True)) == ["a", "b", "Combined_b_c"]


def test_heads_that_a_network_normalises_are_found_together():
    heads = F.normalize(torch.randn(4, 5000, 512) * torch.rand(4, 5000, 1) * 100, dim=2)
    assert searches(torch.cat(list(heads), dim=1), ["a", "b"], "abcd", normalize=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_embedding_that_is_not_finite_is_refused_by_its_images_name(value):
    class Same(nn.Module):
        def forward(self, images):
            return dict.fromkeys(FEATURES, images.flatten(1)), images

    loader = Images()
    loader.images[6:8, 0, 1, 1] = value
    loader.dataset = Paths(10)
    with pytest.raises(RunError, match=r"^the embeddings of 2 of 10 images are not finite, that of "
                                       r"'image 6' first$"):
        embed(Same(), loader, FEATURES)


class Paths(list):
    """In place of a dataset."""

    def __init__(self, n):
        super().__init__(range(n))
        self.paths = [f"image {i}" for i in self]
