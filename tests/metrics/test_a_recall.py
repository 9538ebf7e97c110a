"""Recall over centroids."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import metrics
from metrics.a_recall import carried_labels


def naive(k, features, labels, centroids, assignment):
    carried = []
    for cluster in range(len(centroids)):
        members = np.sort(labels[assignment == cluster].numpy())
        classes, counts = np.unique(members, return_counts=True)
        carried.append(classes[counts.argmax()] if len(members) else None)
    hits = []
    for query, label in zip(features.double(), labels, strict=True):
        nearest = (centroids.double() - query).square().sum(1).argsort()[:k]
        hits.append(any(carried[cluster] == int(label) for cluster in nearest))
    return np.mean(hits)


def test_equals_its_loop():
    labels = torch.randint(-3, 6, (120,))
    features = torch.randn(120, 5)
    centroids = torch.randn(12, 5)
    assignment = torch.randint(0, 10, (120,))  # the last two are empty
    depths = (1, 2, 5, 12, 40)
    values = metrics.compute([f"a_recall@{k}" for k in depths], features, labels,
                             clusters=(centroids, assignment[:, None]))
    for k in depths:
        expected = naive(k, features, labels, centroids, assignment)
        assert values[f"a_recall@{k}"] == pytest.approx(expected), k


def test_of_tied_classes_the_lowest_is_carried():
    # Two of 7 and two of 3 in the cluster, and a query of class 3 beside: it finds the 3.
    clusters = torch.zeros(1, 2), torch.zeros(6, dtype=torch.int64)
    for labels, value in (([7, 7, 3, 3, 8], 1), ([7, 7, 7, 3, 8], 0)):
        found = metrics.compute(["a_recall@1"], torch.zeros(1, 2), [3], clusters=clusters,
                                gallery=(torch.zeros(5, 2), labels))
        assert found["a_recall@1"] == value, labels


def test_compute_clusters_and_in_shop_counts_the_queries():
    labels = torch.arange(3).repeat_interleave(10)
    features = torch.eye(3)[labels] * 10 + torch.randn(30, 3)
    assert metrics.compute(["a_recall@1"], features, labels)["a_recall@1"] == 1
    wrong = torch.tensor([2, 2, 2, 0])
    assert metrics.compute(["a_recall@1"], features[:4], wrong,
                           gallery=(features[4:], labels[4:]))["a_recall@1"] == 0.25


class WritesOnce(TorchDispatchMode):
    """Refuses to write twice to one place: which write stays depends on the device."""

    written = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("index_put", "index_put_", "scatter", "scatter_"):
            places = args[1][0] if "index" in function.overloadpacket.__name__ else args[2]
            assert len(places.unique()) == places.numel()
            self.written += places.numel()
        return function(*args, **(kwargs or {}))


def test_each_cluster_is_written_once():
    labels, assignment = torch.randint(0, 6, (200,)), torch.randint(0, 10, (200,))
    with WritesOnce() as mode:
        carried = carried_labels(assignment, labels, 12)
    assert mode.written == 10
    assert carried[:10].tolist() == [int(labels[assignment == c].bincount().argmax())
                                     for c in range(10)]
    assert set(carried[10:].tolist()) == {torch.iinfo(torch.int64).min}
