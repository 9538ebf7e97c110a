"""Embedding a dataset."""

import pytest
import torch
from torch import nn

from datasets import Batch
from utilities.embedding import embed
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


def test_without_features_the_trunk_is_kept():
    network, loader = Network(), Images()
    _, trunk = network.eval()(loader.images)
    torch.testing.assert_close(embed(network, loader, None), trunk)


def test_the_network_computes_in_evaluation_mode_and_modules_return_to_theirs():
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


def test_embeddings_can_be_changed_outside_inference_mode():
    embeddings = embed(Network(), Images(), FEATURES)
    embeddings[0] += 1
    assert not embeddings.requires_grad and not embeddings.is_inference()


@pytest.mark.parametrize("value, why", [
    (torch.nan, "not finite"), (torch.inf, "not finite"), (-torch.inf, "not finite"),
    (1e19, "so large that float32 does not hold their squared distances")])
def test_an_embedding_that_cannot_be_compared_is_refused_by_its_images_name(value, why):
    class Same(nn.Module):
        def forward(self, images):
            return dict.fromkeys(FEATURES, images.flatten(1)), images

    loader = Images()
    loader.images[6:8, 0, 1, 1] = value
    loader.dataset = Paths(10)
    with pytest.raises(RunError, match=f"^the embeddings of 2 of 10 images are {why}, that of "
                                       "'image 6' first$"):
        embed(Same(), loader, FEATURES)


class Paths(list):
    """In place of a dataset."""

    def __init__(self, n):
        super().__init__(range(n))
        self.paths = [f"image {i}" for i in self]
