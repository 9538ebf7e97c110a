"""Batches, miners that return what they are given, and the comparison with a naive oracle."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from batchminer import Pairs, Sets, Triplets

KINDS = {Triplets: "triplets", Pairs: "npairs", Sets: "sets"}


@pytest.fixture
def fixed():
    """fixed(tuples) -> a miner that always returns them."""

    class Miner:
        name = "fixed"

        def __init__(self, found):
            self.found, self.tuples = found, KINDS[type(found)]

        def __call__(self, embeddings, labels):
            return self.found

    return Miner


@pytest.fixture
def batch():
    """16 rows of 5 classes in no order, with tuples of every kind, about half of them valid."""
    labels = torch.randint(0, 5, (16,))
    raw = torch.randn(16, 6)
    anchors, positives, negatives = torch.randint(0, 16, (3, 16))
    valid = torch.rand(16) < 0.6
    same = labels[:, None] == labels
    return SimpleNamespace(
        labels=labels, raw=raw, unit=F.normalize(raw, dim=1),
        triplets=Triplets(anchors, positives, negatives, valid),
        pairs=Pairs(anchors, positives, torch.rand(16, 16) < 0.5, valid),
        sets=Sets(same & ~torch.eye(16, dtype=bool), ~same,
                  (same.sum(1) > 1) & (torch.rand(16) < 0.8)))


@pytest.fixture
def agree():
    """agree(criterion, oracle, embeddings, labels): value and gradients, in fp32 and fp64.

    The oracle takes (x, *the criterion's parameters) in fp64. Returns the value.
    """

    def compare(criterion, oracle, embeddings, labels, tolerance=1e-4):
        x = embeddings.clone().requires_grad_()
        loss = criterion(x, labels)
        assert loss.shape == () and loss.dtype == torch.float32
        loss.backward()
        inputs = [t.detach().double().requires_grad_() for t in (x, *criterion.parameters())]
        expected = oracle(*inputs)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        for tensor, reference in zip((x, *criterion.parameters()), inputs, strict=True):
            scale = max(reference.grad.abs().max().item(), 1e-6)
            assert (tensor.grad - reference.grad).abs().max() <= 10 * tolerance * scale
        return loss.item()

    return compare
