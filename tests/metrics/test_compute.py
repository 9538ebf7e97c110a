"""What metrics share, what is held in memory, and features that can hardly be measured."""

import math

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import metrics
from metrics import measuring, neighbours, ranking
from tests.metrics.oracles import rankings, retrieval
from utilities.errors import TrainingError

NAMES = ["e_recall@1", "e_recall@8", "c_recall@2", "a_recall@1", "nmi", "f1", "c_nmi", "c_f1",
         "mAP", "mAP_c", "mAP_1000", "mAP_lim", "mAP_r", "r_precision", "c_mAP", "c_mAP_c",
         "c_mAP_r", "c_r_precision", "dists@intra", "dists@inter", "dists@intra_over_inter",
         "rho_spectrum@1", "rho_spectrum@-1"]
SHARES = [name for name in NAMES if not name.startswith(("dists", "rho"))]


@pytest.fixture
def calls(monkeypatch):
    """The depth of each search, the k of each clustering, and "whole" for each whole ranking."""
    made = {"search": [], "k_means": [], "whole": 0}
    knn, k_means, in_gallery = measuring.knn, measuring.k_means, ranking.in_gallery

    def counted_knn(queries, gallery, k, **given):
        made["search"].append(k)
        return knn(queries, gallery, k, **given)

    def counted_k_means(features, k):
        made["k_means"].append(k)
        return k_means(features, k)

    def counted_in_gallery(*given):
        made["whole"] += 1
        return in_gallery(*given)

    monkeypatch.setattr(measuring, "knn", counted_knn)
    monkeypatch.setattr(measuring, "k_means", counted_k_means)
    monkeypatch.setattr(ranking, "in_gallery", counted_in_gallery)
    return made


def data(n=90, dim=6, classes=9):
    labels = torch.arange(n) % classes
    return torch.randn(classes, dim)[labels] * 2 + torch.randn(n, dim), labels


def test_one_search_at_the_largest_k_and_one_clustering_serve_every_metric(calls):
    features, labels = data()
    names = ["e_recall@1", "e_recall@8", "mAP_c", "mAP_r", "r_precision", "nmi", "f1"]
    metrics.compute(names, features, labels)
    # 10 images a class, itself included
    assert calls == {"search": [10], "k_means": [9], "whole": 0}
    metrics.compute([*names, "e_recall@33"], features, labels)
    assert calls["search"][1:] == [33]


def test_normalised_features_share_their_search_with_unit_ones(calls):
    features, labels = data()
    names = ["e_recall@1", "c_recall@1", "mAP_c", "c_mAP_c", "nmi", "c_nmi"]
    values = metrics.compute(names, F.normalize(features), labels)
    assert calls == {"search": [10], "k_means": [9], "whole": 0}
    assert [values[name] for name in names[::2]] == [values[name] for name in names[1::2]]
    metrics.compute(names, features, labels)
    assert calls == {"search": [10] * 3, "k_means": [9] * 3, "whole": 0}


def test_nothing_is_searched_or_clustered_that_no_metric_needs(calls):
    features, labels = data()
    metrics.compute(["dists@intra", "rho_spectrum@1"], features, labels)
    assert calls == {"search": [], "k_means": [], "whole": 0}
    metrics.compute(["nmi"], features, labels)
    assert calls == {"search": [], "k_means": [9], "whole": 0}


def test_values_come_in_the_order_of_the_names_and_do_not_depend_on_one_another():
    features, labels = data()
    together = metrics.compute(NAMES, features, labels)
    assert list(together) == NAMES
    for name in NAMES:
        assert metrics.compute([name], features, labels)[name] == pytest.approx(
            together[name], rel=1e-6), name


def test_with_duplicates_no_value_depends_on_what_else_is_measured():
    # Each point three times, with two classes: the order of equally near images decides.
    points = torch.randn(1000, 4).repeat_interleave(3, 0)
    labels = torch.randint(60, (1000,)).repeat_interleave(3)
    labels[::3] = torch.randint(60, (1000,))
    names = ["e_recall@1", "e_recall@2", "mAP_c", "mAP_r", "mAP_1000", "mAP"]
    together = metrics.compute(names, points, labels)
    for name in names:
        alone = metrics.compute([name], points, labels)[name]
        assert alone == pytest.approx(together[name], rel=1e-4), name


def test_metrics_that_look_at_many_neighbours_share_whole_rankings(calls):
    features, labels = torch.randn(400, 2), torch.arange(400) // 2
    metrics.compute(["e_recall@128"], features, labels)
    assert (calls["search"], calls["whole"]) == ([128], 0)
    metrics.compute(["e_recall@129"], features, labels)
    assert (calls["search"], calls["whole"]) == ([128], 1)
    metrics.compute(["e_recall@1", "e_recall@200", "mAP"], features, labels)
    assert (calls["search"], calls["whole"]) == ([128, 1], 2)


def test_depth_is_what_the_table_has_to_hold():
    labels = torch.arange(90) % 9
    assert metrics.depth(["e_recall@1", "c_recall@4", "nmi"], labels) == 4
    assert metrics.depth(["e_recall@1", "mAP_c", "mAP_lim"], labels) == 89
    assert metrics.depth(["nmi", "a_recall@3", "dists@intra"], labels) == 0
    assert metrics.depth(["mAP_c", "e_recall@1"], labels, gallery_labels=labels[:20]) == 3
    many = torch.arange(900) % 9
    assert metrics.depth(["e_recall@3", "mAP"], many) == 3  # mAP ranks the whole gallery


@pytest.mark.parametrize("units", ["", "queries", "gallery"])
def test_cosine_forms_normalise_queries_and_gallery(units):
    features, labels = data(140, classes=7)
    directions = F.normalize(features)
    features = directions * torch.randn(140, 1).mul(3).exp()    # norms over some decades
    queries, gallery = features[:40], features[40:]
    queries, gallery = (F.normalize(side) if name == units else side
                        for name, side in (("queries", queries), ("gallery", gallery)))
    names = ["c_recall@1", "c_mAP_r", "c_nmi"]
    values = metrics.compute(names, queries, labels[:40], gallery=(gallery, labels[40:]))
    found = rankings(directions[:40], labels[:40], (directions[40:], labels[40:]))
    for name in names[:2]:
        assert values[name] == pytest.approx(retrieval(name, found), abs=1e-6), name
    assert values["c_nmi"] == pytest.approx(
        metrics.compute(["nmi"], directions, labels)["nmi"], abs=1e-6)


def test_norms_that_are_nearly_1_are_normalised_too():
    angles = torch.tensor([1.0, 1.001])[:, None]
    gallery = torch.cat([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [0.995]])
    values = metrics.compute(["e_recall@1", "c_recall@1"], torch.tensor([[1.0, 0.0]]),
                             torch.tensor([0]), gallery=(gallery, torch.tensor([0, 1])))
    assert values == {"e_recall@1": 0, "c_recall@1": 1}


class Largest(TorchDispatchMode):
    """The most entries of any tensor made while it is entered."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.entries = max(self.entries, value.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("names", [["e_recall@1", "mAP_c", "nmi"], ["e_recall@1", "mAP", "mAP_r"]],
                         ids=["neighbours", "whole ranking"])
def test_no_n_by_n_matrix_is_held(names):
    n = 6000
    features, labels = torch.randn(n, 8), torch.arange(n) % 100
    with Largest() as largest:
        metrics.compute(names, features, labels)
    assert n <= largest.entries < n * n // 2


def test_classes_as_large_as_the_gallery_are_ranked_in_blocks(monkeypatch):
    monkeypatch.setitem(neighbours.BLOCK_ENTRIES, "cpu", 2**18)
    n = 3000
    features, labels = torch.randn(n, 8), torch.arange(n) % 2
    with Largest() as largest:
        metrics.compute(["mAP_c", "mAP_r", "mAP"], features, labels)
    assert n <= largest.entries <= 2**20


def test_given_neighbours_are_used_instead_of_a_search(calls):
    features, labels = data()
    names = ["e_recall@1", "mAP_c"]
    distances, away = torch.cdist(features, features).sort(descending=True)
    found = metrics.compute(names, features, labels,
                            neighbours=(distances[:, :10], away[:, :10]))
    assert calls["search"] == []
    assert found["e_recall@1"] < 0.1


def test_neighbours_and_clusters_of_other_images_are_refused():
    features, labels = data()
    with pytest.raises(ValueError, match="neighbours: of 80 images given; accepted: of 90"):
        metrics.compute(["e_recall@1"], features, labels,
                        neighbours=metrics.knn(features[:80], None, 1))
    with pytest.raises(ValueError, match="clusters: of 90 images given; accepted: of 93"):
        metrics.compute(["nmi"], features, labels, gallery=(features[:3], labels[:3]),
                        clusters=(features[:9], labels))


def test_given_neighbours_that_are_too_few_are_not_enough(calls):
    features, labels = data()
    names = ["e_recall@1", "mAP_c"]
    values = metrics.compute(names, features, labels, neighbours=metrics.knn(features, None, 9))
    assert calls["search"] == [10]
    assert values == pytest.approx(metrics.compute(names, features, labels))


def test_given_neighbours_serve_cosine_forms_where_the_features_have_length_1(calls):
    features, labels = data()
    units = F.normalize(features)
    metrics.compute(["c_recall@1"], units, labels, neighbours=metrics.knn(units, None, 1))
    assert calls["search"] == []
    metrics.compute(["c_recall@1"], features, labels, neighbours=metrics.knn(features, None, 1))
    assert calls["search"] == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["e_recall@1", "nmi", "mAP", "dists@intra", "rho_spectrum@1"])
def test_features_that_are_not_finite_are_refused(value, name):
    features, labels = data()
    features[4, 2] = features[70, 0] = value
    with pytest.raises(TrainingError, match=r"^2 of 90 embeddings are not finite, .* in row 4"):
        metrics.compute([name], features, labels)
    with pytest.raises(TrainingError, match="2 of 90"):
        metrics.compute([name], features[:3], labels[:3], gallery=(features, labels))


@pytest.mark.parametrize("name", ["e_recall@1", "nmi", "mAP"])
def test_features_whose_squared_distances_overflow_are_refused(name):
    features, labels = data()
    features[4, 2] = 1e19
    with pytest.raises(TrainingError, match=r"^1 of 90 embeddings are so large .* in row 4"):
        metrics.compute([name], features, labels)


@pytest.mark.parametrize("features, labels", [
    (torch.randn(20, 6), torch.zeros(20)), (torch.randn(20, 6), torch.arange(20)),
    (torch.randn(2, 6), torch.tensor([0, 0])), (torch.randn(2, 6), torch.tensor([0, 1])),
    (torch.randn(1, 6), torch.tensor([0])), (torch.ones(20, 6), torch.arange(20) // 2),
    (torch.zeros(20, 6), torch.arange(20) // 2),
    (torch.eye(6)[:1] * torch.tensor([[1.0], [-1.0]]).repeat(10, 1), torch.arange(20) // 5)],
    ids=["one class", "all different", "two of a class", "two classes", "one image", "equal",
         "zero", "opposite"])
@pytest.mark.parametrize("in_shop", [False, True])
def test_every_metric_is_finite_on_degenerate_splits(features, labels, in_shop):
    gallery = (features.clone(), labels) if in_shop else None
    values = metrics.compute(NAMES, features, labels, gallery=gallery)
    assert all(math.isfinite(value) for value in values.values()), values
    assert all(0 <= value <= 1 for name, value in values.items() if name in SHARES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_measured_in_float32(dtype):
    features, labels = data()
    features = features.to(dtype)
    assert metrics.compute(NAMES, features, labels) == pytest.approx(
        metrics.compute(NAMES, features.float(), labels))


def test_arrays_and_tensors_that_need_gradients_are_taken():
    features, labels = data()
    expected = metrics.compute(NAMES, features, labels)
    assert metrics.compute(NAMES, features.numpy(), labels.numpy().astype(np.int32)) == (
        pytest.approx(expected))
    assert metrics.compute(NAMES, features.clone().requires_grad_(), labels.tolist()) == (
        pytest.approx(expected))
    assert all(type(value) is float for value in expected.values())


def test_labels_need_not_count_from_0():
    features, labels = data()
    assert metrics.compute(NAMES, features, labels * 1000 - 17) == pytest.approx(
        metrics.compute(NAMES, features, labels))


def test_repeated_evaluation_gives_the_same_numbers():
    features, labels = data()
    torch.manual_seed(5)
    first = metrics.compute(NAMES, features, labels)
    torch.manual_seed(6)
    assert metrics.compute(NAMES, features, labels) == pytest.approx(first)
    assert torch.initial_seed() == 6


def test_features_are_left_as_they_were():
    features, labels = data()
    before = features.clone()
    metrics.compute(NAMES, features, labels, gallery=(features, labels))
    assert torch.equal(features, before)


@pytest.mark.gpu
@pytest.mark.parametrize("in_shop", [False, True])
@pytest.mark.parametrize("has_faiss", [False, True])
def test_a_gpu_gives_the_numbers_of_the_cpu(in_shop, has_faiss, monkeypatch):
    if not has_faiss:
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    features, labels = data(3000, 32, 400)
    gallery = (features[1000:], labels[1000:]) if in_shop else None
    queries = (features[:1000], labels[:1000]) if in_shop else (features, labels)
    expected = metrics.compute(NAMES, *queries, gallery=gallery)
    found = metrics.compute(NAMES, *(part.cuda() for part in queries), device="cuda",
                            gallery=gallery and tuple(part.cuda() for part in gallery))
    for name in NAMES:  # k-means on a GPU adds up in another order
        near = 0.02 if metrics.needs_clusters(name) else 1e-3
        assert found[name] == pytest.approx(expected[name], abs=near), name
