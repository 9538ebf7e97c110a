"""Metrics of neighbours against loops, pytorch-metric-learning and the cases with few images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

import metrics
from metrics import measuring, neighbours
from tests.metrics.oracles import RETRIEVAL, rankings, retrieval


@pytest.fixture(params=["few neighbours", "whole ranking"])
def way(request, monkeypatch):
    """Both ways to the ranks: from the k nearest, and by counting over the gallery."""
    if request.param == "whole ranking":
        monkeypatch.setattr(measuring, "DEEPEST_TABLE", -1)
        monkeypatch.setitem(neighbours.BLOCK_ENTRIES, "cpu", 256)


def data(n=60, dim=6, classes=9):
    labels = torch.randint(classes, (n,))
    return torch.randn(n, dim) + torch.randn(classes, dim)[labels], labels * 7


def test_every_metric_of_neighbours_equals_its_loop(way):
    features, labels = data()
    values = metrics.compute(RETRIEVAL, features, labels)
    found = rankings(features, labels)
    for name in RETRIEVAL:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name


def test_cosine_forms_are_the_euclidean_ones_on_normalised_features(way):
    features, labels = data()
    names = ["c_recall@1", "c_recall@4", "c_mAP", "c_mAP_c", "c_mAP_1000", "c_mAP_lim", "c_mAP_r",
             "c_r_precision"]
    values = metrics.compute([*names, "e_recall@1"], features, labels)
    found = rankings(F.normalize(features.double()), labels)
    for name in names:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name
    assert values["c_recall@1"] != values["e_recall@1"]


def test_in_shop_searches_the_gallery_and_leaves_nothing_out(way):
    features, labels = data(70)
    queries, gallery = (features[:25], labels[:25]), (features[25:], labels[25:])
    gallery[0][0] = queries[0][0]  # an equal image in the gallery is found
    gallery[1][0] = queries[1][0]
    values = metrics.compute(RETRIEVAL, *queries, gallery=gallery)
    found = rankings(*queries, gallery)
    for name in RETRIEVAL:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name
    assert metrics.compute(["e_recall@1"], queries[0][:1], queries[1][:1],
                           gallery=gallery)["e_recall@1"] == 1


def shared(n=60):
    """Queries, a gallery that holds every third of them in another order, and where."""
    features, labels = data(n)
    both = torch.arange(0, 40, 3).flip(0)
    gallery = (torch.cat([features[40:], features[both]]), torch.cat([labels[40:], labels[both]]))
    own = torch.full((40,), -1)
    own[both] = torch.arange(n - 40, n - 40 + len(both))
    return (features[:40], labels[:40]), gallery, own


def test_a_query_in_the_gallery_is_left_out_of_its_own_neighbours(way):
    queries, gallery, own = shared()
    names = [*RETRIEVAL, "e_recall@34", "c_recall@1", "c_mAP"]      # of 34 rows in the gallery
    values = metrics.compute(names, *queries, gallery=gallery, own=own)
    found = rankings(*queries, gallery, own=own.tolist())
    for name in names[:-2]:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name
    directions = F.normalize(queries[0].double()), F.normalize(gallery[0].double())
    found = rankings(directions[0], queries[1], (directions[1], gallery[1]), own=own.tolist())
    for name in names[-2:]:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name
    unaware = metrics.compute(["e_recall@1"], *queries, gallery=gallery)
    assert values["e_recall@1"] < unaware["e_recall@1"]


def test_a_gallery_of_all_queries_is_measured_as_queries_among_themselves(way):
    features, labels = data()
    order = torch.randperm(60)
    names = [*RETRIEVAL, "c_recall@1", "c_mAP_c", "nmi", "f1", "a_recall@1", "dists@intra",
             "rho_spectrum@1"]
    values = metrics.compute(names, features, labels, gallery=(features[order], labels[order]),
                             own=order.argsort())
    assert values == pytest.approx(metrics.compute(names, features, labels))


def test_a_query_that_the_gallery_holds_under_another_class_misses_nothing(way):
    queries = torch.tensor([[0.0]]), torch.tensor([1])
    gallery = torch.tensor([[0.0], [1.0]]), torch.tensor([2, 1])
    values = metrics.compute(["e_recall@1", "mAP_r", "mAP"], *queries, gallery=gallery, own=[0])
    assert values == {"e_recall@1": 1, "mAP_r": 1, "mAP": 1}


def test_queries_without_a_positive_are_those_that_have_no_other_image_of_their_class():
    labels = torch.tensor([1, 1, 2, 3])
    assert metrics.n_without_positive(labels) == 2
    assert metrics.n_without_positive(labels.numpy(), [1, 2]) == 1
    assert metrics.n_without_positive(labels, torch.tensor([1, 2]), own=[0, -1, 1, -1]) == 3


def test_in_shop_relevant_images_are_those_of_the_gallery(way):
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    labels = torch.tensor([0, 0, 0, 1])
    values = metrics.compute(["mAP_c", "mAP_r"], features[:1], labels[:1],
                             gallery=(features[1:], labels[1:]))
    assert values == {"mAP_c": 1.0, "mAP_r": 1.0}
    assert metrics.compute(["mAP_c"], features[:3], labels[:3])["mAP_c"] == pytest.approx(2 / 3)


def test_the_query_is_left_out_by_its_index_not_by_its_rank(way):
    # Rows 0 and 1 are equal and of different classes: who drops the nearest row, which may be
    # either, finds row 0 itself. Its own class is farther away.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    assert metrics.compute(["e_recall@1"], features, labels)["e_recall@1"] == 0
    same = torch.tensor([0, 0, 1, 1])
    assert metrics.compute(["e_recall@1", "mAP_r"], features, same) == {"e_recall@1": 1, "mAP_r": 1}


def test_many_duplicates_never_return_the_query(way):
    features = torch.ones(300, 4)
    labels = torch.arange(300)
    values = metrics.compute(["e_recall@1", "e_recall@200", "mAP_c"], features, labels)
    assert set(values.values()) == {0.0}


def test_recall_beyond_the_number_of_images_looks_at_all(way):
    features, labels = data(12, classes=3)
    values = metrics.compute(["e_recall@11", "e_recall@12", "e_recall@5000"], features, labels)
    several = np.mean([(labels == label).sum() > 1 for label in labels])
    assert set(values.values()) == {several}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 24).flatmap(lambda n: st.tuples(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=n, max_size=n),
    st.lists(st.integers(0, 4), min_size=n, max_size=n))), st.booleans(), st.booleans())
def test_with_duplicates_every_metric_lies_between_the_orders_of_the_ties(rows, whole, in_shop):
    features, labels = torch.tensor(rows[0], dtype=torch.float32), torch.tensor(rows[1])
    half = len(labels) // 2
    queries, gallery = (features, labels), None
    if in_shop:
        queries, gallery = (features[:half], labels[:half]), (features[half:], labels[half:])
    with pytest.MonkeyPatch.context() as patch:
        if whole:
            patch.setattr(measuring, "DEEPEST_TABLE", -1)
        values = metrics.compute(RETRIEVAL, *queries, gallery=gallery)
    last, first = (rankings(*queries, gallery, ties_last=last) for last in (True, False))
    for name in RETRIEVAL:
        assert retrieval(name, last) - 1e-6 <= values[name] <= retrieval(name, first) + 1e-6, name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 2**31))
def test_counting_over_the_gallery_agrees_with_the_nearest_neighbours(labels, seed):
    features = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    few = metrics.compute(RETRIEVAL, features, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "DEEPEST_TABLE", -1)
        assert metrics.compute(RETRIEVAL, features, labels) == pytest.approx(few, abs=1e-6)


@pytest.mark.parametrize("lone", [False, True], ids=["", "a class of one image"])
def test_agrees_with_pytorch_metric_learning(lone):
    features, labels = data(200, classes=20)
    if lone:
        labels[0] = 999
    oracle = AccuracyCalculator(include=("mean_average_precision_at_r", "r_precision"),
                                device=torch.device("cpu"))
    expected = oracle.get_accuracy(features, labels)
    values = metrics.compute(["mAP_r", "r_precision"], features, labels)
    assert values["mAP_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-5)
    assert values["r_precision"] == pytest.approx(expected["r_precision"], abs=1e-5)


def test_a_lone_query_is_a_miss_in_recall_where_pytorch_metric_learning_drops_it():
    features, labels = data(200, classes=20)
    labels[:7] = torch.arange(900, 907)
    oracle = AccuracyCalculator(include=("precision_at_1",), device=torch.device("cpu"))
    expected = oracle.get_accuracy(features, labels)["precision_at_1"]
    found = metrics.compute(["e_recall@1"], features, labels)["e_recall@1"]
    lone = metrics.n_without_positive(labels)
    assert lone == 7 + ((labels[:, None] == labels).sum(1)[7:] == 1).sum()
    assert found == pytest.approx(expected * (200 - lone) / 200)


def test_a_perfect_ranking_scores_as_the_definitions_say(way):
    labels = torch.arange(4).repeat_interleave(5)
    features = F.one_hot(labels).float() + torch.rand(20, 4) / 100
    values = metrics.compute(["mAP", "mAP_c", "mAP_r", "r_precision"], features, labels)
    assert values == pytest.approx({"mAP": 4 / 5, "mAP_c": 4 / 5, "mAP_r": 1, "r_precision": 1})


def test_large_classes_are_ranked_by_sorting(monkeypatch):
    monkeypatch.setattr(measuring, "DEEPEST_TABLE", -1)
    features, labels = data(300, classes=2)
    found = rankings(features, labels)
    values = metrics.compute(["mAP", "mAP_c"], features, labels)
    for name, value in values.items():
        assert value == pytest.approx(retrieval(name, found), abs=1e-6)


@pytest.mark.parametrize("name, limit", [("mAP_1000", 1000), ("mAP_lim", 1023)])
def test_limited_sums_end_at_their_limit(name, limit):
    # A query at 0 whose only relevant image lies at place `limit`, then one place farther.
    for place in (limit, limit + 1):
        queries = torch.zeros(1, 1), torch.tensor([7])
        gallery = torch.arange(1.0, 1101)[:, None], torch.full((1100,), 1)
        gallery[1][place - 1] = 7
        expected = 1 / place if place == limit else 0
        assert metrics.compute([name], *queries, gallery=gallery)[name] == pytest.approx(expected)
