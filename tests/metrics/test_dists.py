"""Cosine distances within and between classes."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

import metrics

NAMES = ["dists@intra", "dists@inter", "dists@intra_over_inter"]


def naive(features, labels):
    classes = sorted(set(labels.tolist()))
    intra = []
    for label in classes:
        rows = features[labels == label].double().numpy()
        pairs = [cosine(a, b) for i, a in enumerate(rows) for b in rows[:i]]
        if pairs:
            intra.append(np.mean(pairs))
    means = [features[labels == label].double().mean(0).numpy() for label in classes]
    inter = np.mean([cosine(a, b) for i, a in enumerate(means) for b in means[:i]])
    return {"dists@intra": np.mean(intra), "dists@inter": inter,
            "dists@intra_over_inter": np.mean(intra) / inter}


def test_equals_the_loop_over_pairs_and_leaves_single_images_out(monkeypatch):
    monkeypatch.setattr("metrics.dists.ROWS", 7)
    labels = torch.cat([torch.randint(0, 6, (50,)), torch.tensor([80, 90])])
    features = torch.randn(52, 5) + torch.randn(100, 5)[labels]
    assert metrics.compute(NAMES, features, labels) == pytest.approx(naive(features, labels))


def test_in_shop_measures_the_union():
    features, labels = torch.randn(30, 4), torch.arange(30) % 5
    assert metrics.compute(NAMES, features[:8], labels[:8], gallery=(features[8:], labels[8:])) == (
        pytest.approx(metrics.compute(NAMES, features, labels)))


def test_close_features_keep_their_digits():
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    value = metrics.compute(["dists@intra"], features, torch.zeros(2))["dists@intra"]
    assert value == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize("features, labels, expected", [
    (torch.randn(4, 3), torch.arange(4), {"dists@intra": 0, "dists@intra_over_inter": 0}),
    (torch.randn(4, 3), torch.zeros(4), {"dists@inter": 0, "dists@intra_over_inter": 0}),
    (torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), dict.fromkeys(NAMES, 0)),
    (torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]), dict.fromkeys(NAMES, 1)),
    (torch.tensor([[1.0], [-1.0]]), torch.zeros(2), {"dists@intra": 2})],
    ids=["all different", "one class", "equal", "zero", "opposite"])
def test_degenerate_features(features, labels, expected):
    values = metrics.compute(list(expected), features, labels)
    assert values == pytest.approx(expected, abs=1e-7)
    assert min(values.values()) >= 0
