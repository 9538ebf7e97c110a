"""The metrics of a clustering: NMI and F1."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

import metrics
from utilities.clustering import k_means

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=30)


def of(name, labels, assignment):
    """The metric called `name` of a given clustering."""
    assignment = torch.as_tensor(assignment)
    centroids = torch.zeros(int(assignment.max()) + 1, 1)
    return metrics.compute([name], torch.zeros(len(labels), 1), labels,
                           clusters=(centroids, assignment))[name]


@settings(max_examples=100, deadline=None)
@given(LABELS, st.data())
def test_nmi_is_scikit_learns_arithmetic_one(labels, data):
    assignment = data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels)))
    expected = normalized_mutual_info_score(labels, assignment, average_method="arithmetic")
    assert of("nmi", labels, assignment) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(LABELS, st.data())
def test_f1_counts_pairs(labels, data):
    assignment = data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels)))
    pairs = list(itertools.combinations(range(len(labels)), 2))
    same_class = [labels[i] == labels[j] for i, j in pairs]
    same_cluster = [assignment[i] == assignment[j] for i, j in pairs]
    both = sum(map(min, same_class, same_cluster))
    expected = 2 * both / (sum(same_class) + sum(same_cluster)) if sum(same_class) + sum(
        same_cluster) else 0
    assert of("f1", labels, assignment) == pytest.approx(expected)


def test_f1_of_many_images_does_not_overflow():
    labels = torch.arange(100_000) // 60_000
    (_, apart), (_, together) = pair_confusion_matrix(labels, labels)
    assert apart == 0
    assert together > 2**31
    assert of("f1", labels, labels) == 1
    assert of("f1", labels, torch.zeros_like(labels)) == pytest.approx(
        2 * 0.52 / (0.52 + 1), rel=1e-4)


def test_cluster_labels_may_be_a_column():
    labels = torch.tensor([0, 0, 1, 1])
    assert of("nmi", labels, labels[:, None].numpy()) == pytest.approx(1)
    assert of("f1", labels, labels[:, None]) == 1


def test_there_are_as_many_clusters_as_classes_of_the_evaluated_split():
    # As many clusters as images make each image a cluster of its own: then they are the classes.
    features, labels = torch.randn(16, 4), 50 * torch.arange(16)
    assert metrics.compute(["nmi"], features, labels)["nmi"] == pytest.approx(1)
    gallery = features[9:], labels[9:]
    values = metrics.compute(["nmi"], features[:9], labels[:9], gallery=gallery)
    assert values["nmi"] == pytest.approx(1)
    assert metrics.compute(["nmi"], features, labels // 100)["nmi"] < 1


def test_in_shop_clusters_the_union():
    features = torch.randn(40, 8)
    labels = torch.arange(40) % 5
    union = metrics.compute(["nmi", "f1"], features, labels)
    apart = metrics.compute(["nmi", "f1"], features[:9], labels[:9],
                            gallery=(features[9:], labels[9:]))
    assert apart == pytest.approx(union)


def test_given_clusters_cover_queries_then_gallery():
    features, labels = torch.randn(12, 3), torch.arange(12) % 3
    values = metrics.compute(["f1", "c_f1"], features[:5], labels[:5],
                             gallery=(features[5:], labels[5:]), clusters=(torch.eye(3), labels))
    assert values == {"f1": 1, "c_f1": 1}


def test_agrees_with_pytorch_metric_learning():
    labels = torch.arange(8).repeat_interleave(25)
    features = torch.randn(8, 6)[labels] * 2 + torch.randn(200, 6)
    oracle = AccuracyCalculator(include=("NMI",), device=torch.device("cpu"),
                                kmeans_func=lambda points, k: k_means(points, k)[1])
    assert metrics.compute(["nmi"], features, labels)["nmi"] == pytest.approx(
        oracle.get_accuracy(features, labels)["NMI"], abs=1e-6)


def test_cosine_forms_cluster_normalised_features():
    labels = torch.arange(4).repeat_interleave(20)
    directions = torch.eye(4)[labels] + torch.randn(80, 4) / 20
    features = directions * torch.rand(80, 1).mul(6).exp()
    values = metrics.compute(["nmi", "f1", "c_nmi", "c_f1"], features, labels)
    assert values["c_nmi"] > 0.9 > values["nmi"]
    assert values["c_f1"] > 0.9 > values["f1"]


def test_empty_clusters_count_for_nothing():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert of("nmi", labels, torch.tensor([0, 0, 5, 5, 5, 5])) == pytest.approx(
        normalized_mutual_info_score(labels, [0, 0, 1, 1, 1, 1]))
