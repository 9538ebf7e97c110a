"""k-means, and the metrics of a clustering, NMI and F1."""

import itertools

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

import metrics
from metrics import clusters, neighbours

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=30)


def of(name, labels, assignment):
    return metrics.select(name)(target_labels=torch.as_tensor(labels),
                                computed_cluster_labels=torch.as_tensor(assignment))


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
    assert of("nmi", labels, labels[:, None].numpy()) == 1
    assert of("f1", labels, labels[:, None]) == 1


def test_k_means_is_faiss_s_own_with_every_row():
    points = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    # faiss takes 256 rows a centroid unless told otherwise.
    means = faiss.Kmeans(8, 4, niter=20, seed=1234, max_points_per_centroid=1500)
    means.train(points)
    centroids, assignment = clusters.k_means(torch.from_numpy(points), 4)
    np.testing.assert_array_equal(centroids, means.centroids)
    np.testing.assert_array_equal(assignment, means.assign(points)[1])


@pytest.mark.parametrize("k", [1, 4, 300, 999, 1000])
def test_k_means_with_torch_is_faiss_s(k):
    points = torch.randn(1000, 8)
    centroids, assignment = clusters.k_means(points, k)
    found, nearest = clusters._with_torch(points, k)
    assert torch.allclose(found, centroids, atol=1e-5)
    assert (nearest == assignment).all()


@pytest.mark.parametrize("dim, times, k", [
    (8, 2, 150), (7, 2, 190), (1, 2, 101), (10, 10, 300)])  # the last draws more and more
def test_k_means_with_torch_splits_as_faiss_does(dim, times, k, monkeypatch):
    def assign(features, centroids):    # of equally near ones faiss's choice
        index = faiss.IndexFlatL2(dim)
        index.add(centroids.numpy())
        return torch.from_numpy(index.search(features.numpy(), 1)[1][:, 0])

    splits, split = [], clusters._split
    monkeypatch.setattr(clusters, "_assign", assign)
    monkeypatch.setattr(clusters, "_split", lambda centroids, sizes, n: splits.append(
        (sizes == 0).sum()) or split(centroids, sizes, n))
    points = (torch.randn(100, dim) * 4).round().repeat(times, 1) / 4   # so that means are exact
    centroids, assignment = clusters.k_means(points, k)
    found, nearest = clusters._with_torch(points, k)
    assert len(splits) == clusters.ITERATIONS and min(splits) > 3
    assert torch.allclose(found, centroids, atol=1e-5)
    assert torch.equal(nearest, assignment)


def test_as_many_clusters_as_points_are_the_points():
    points = torch.ones(20, 3)
    points[7] = 5
    centroids, _ = clusters._with_torch(points, 20)
    assert torch.equal(centroids, clusters.k_means(points, 20)[0])
    assert torch.equal(centroids, points)


@pytest.mark.gpu
def test_k_means_on_a_gpu_is_the_cpu_s():
    points = torch.randn(3000, 16)
    _, assignment = clusters.k_means(points, 40)
    for way in (clusters.k_means, clusters._with_torch):
        centroids, nearest = way(points.cuda(), 40)
        assert centroids.is_cuda and nearest.is_cuda
        assert (nearest.cpu() == assignment).float().mean() > 0.98


@pytest.mark.parametrize("n_gpus, way", [(0, "torch"), (1, "faiss")])
def test_on_a_gpu_k_means_is_torch_s_only_where_faiss_has_none(n_gpus, way, monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

    asked = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: n_gpus)
    monkeypatch.setattr(neighbours, "flat_index",
                        lambda dim, _: asked.append("faiss") or faiss.IndexFlatL2(dim))
    monkeypatch.setattr(clusters, "_with_torch", lambda *_: asked.append("torch"))
    clusters.k_means(torch.randn(20, 4).as_subclass(OnGpu), 3)
    assert asked == [way]


def test_k_means_searches_with_the_index_of_the_features_device(monkeypatch):
    points, made = torch.randn(500, 8), []

    def flat_index(dim, device):
        made.append((faiss.IndexFlatL2(dim), dim, device))
        return made[-1][0]

    expected = clusters.k_means(points, 7)
    monkeypatch.setattr(neighbours, "flat_index", flat_index)
    centroids, assignment = clusters.k_means(points, 7)
    (index, dim, device), = made
    assert (dim, device) == (8, points.device)
    np.testing.assert_array_equal(index.reconstruct_n(0, 7), centroids)     # it was searched
    assert torch.equal(centroids, expected[0]) and torch.equal(assignment, expected[1])


def test_there_are_as_many_clusters_as_classes_of_the_evaluated_split(monkeypatch):
    asked = []

    def k_means(features, k):
        asked.append(k)
        return features[:k], torch.arange(len(features)) % k

    monkeypatch.setattr(clusters, "k_means", k_means)
    features, labels = torch.randn(12, 4), torch.tensor([3, 50, 900, 3] * 3)
    metrics.compute(["nmi"], features, labels)
    metrics.compute(["nmi"], features, labels, gallery=(torch.randn(4, 4), torch.arange(4)))
    assert asked == [3, 6]  # 3, 50, 900 and in the union 0, 1, 2 as well


def test_in_shop_clusters_the_union():
    features = torch.randn(40, 8)
    labels = torch.arange(40) % 5
    union = metrics.compute(["nmi", "f1", "a_recall@1"], features, labels)
    apart = metrics.compute(["nmi", "f1"], features[:9], labels[:9],
                            gallery=(features[9:], labels[9:]))
    assert apart == {name: union[name] for name in apart}


def test_agrees_with_pytorch_metric_learning():
    labels = torch.arange(8).repeat_interleave(25)
    features = torch.randn(8, 6)[labels] * 2 + torch.randn(200, 6)
    oracle = AccuracyCalculator(
        include=("NMI",), device=torch.device("cpu"),
        kmeans_func=lambda points, k: clusters.k_means(points, k)[1])
    assert metrics.compute(["nmi"], features, labels)["nmi"] == pytest.approx(
        oracle.get_accuracy(features, labels)["NMI"], abs=1e-6)


def test_cosine_forms_cluster_normalised_features():
    labels = torch.arange(4).repeat_interleave(20)
    directions = torch.eye(4)[labels] + torch.randn(80, 4) / 20
    features = directions * torch.rand(80, 1).mul(6).exp()
    values = metrics.compute(["nmi", "f1", "c_nmi", "c_f1"], features, labels)
    assert values["c_nmi"] > 0.9 > values["nmi"]
    assert values["c_f1"] > 0.9 > values["f1"]


@pytest.mark.parametrize("points, k", [
    (torch.ones(20, 4), 7), (torch.randn(2, 4).repeat(10, 1), 7), (torch.randn(5, 4), 5),
    (torch.randn(1, 4), 1), (torch.randn(2, 1), 2)],
    ids=["one point", "two points", "as many clusters as points", "one image", "two images"])
def test_few_distinct_points_are_clustered(points, k, capfd):
    centroids, assignment = clusters.k_means(points, k)
    assert centroids.shape == (k, points.shape[1])
    assert assignment.shape == (len(points),)
    nearest = torch.cdist(points, centroids)
    assert torch.allclose(nearest.gather(1, assignment[:, None])[:, 0], nearest.min(1).values,
                          atol=1e-3)
    assert capfd.readouterr() == ("", "")


def test_empty_clusters_count_for_nothing():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert of("nmi", labels, torch.tensor([0, 0, 5, 5, 5, 5])) == pytest.approx(
        normalized_mutual_info_score(labels, [0, 0, 1, 1, 1, 1]))
