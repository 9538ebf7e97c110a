"""The exact nearest neighbours."""

import faiss
import pytest
import torch

import metrics
from metrics import neighbours
from utilities.errors import TrainingError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that few points make several blocks, of which the last is smaller."""
    monkeypatch.setitem(neighbours.BLOCK_ENTRIES, "cpu", 10_000)
    monkeypatch.setattr(neighbours, "PAIR_ENTRIES", 500)


def exact(queries, gallery, k):
    distances = torch.cdist(queries.double(), (queries if gallery is None else gallery).double(),
                            compute_mode="donot_use_mm_for_euclid_dist")
    if gallery is None:
        distances.fill_diagonal_(torch.inf)
    return distances, distances.topk(k, largest=False).indices


def check(found, queries, gallery, k):
    """`found` are the k nearest in order, but for what is equally near within float32."""
    distances, indices = found
    every, nearest = exact(queries, gallery, k)
    expected = every.gather(1, nearest)
    assert torch.allclose(every.gather(1, indices), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(distances.double(), expected, rtol=1e-5, atol=1e-6)
    assert (indices.sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("k", [1, 4, 5, 80, 299])     # in groups of columns, and over all of them
@pytest.mark.parametrize("n", [300, 304])
def test_finds_the_exact_neighbours_in_order(n, k):
    points = torch.randn(n, 8)
    found = metrics.knn(points, None, k)
    check(found, points, None, k)
    assert [part.dtype for part in found] == [torch.float32, torch.int64]


def test_finds_neighbours_in_a_gallery_where_nothing_is_left_out():
    queries, gallery = torch.randn(120, 8), torch.randn(77, 8)
    gallery[:50] = queries[:50]
    found = metrics.knn(queries, gallery, 77)
    check(found, queries, gallery, 77)
    assert (found[0][:50, 0] == 0).all()


def test_a_row_that_is_the_query_itself_comes_last_at_an_infinite_distance():
    queries = torch.ones(30, 4)
    gallery = torch.cat([torch.ones(30, 4), torch.randn(9, 4)])
    own = torch.arange(30).flip(0)
    own[::2] = -1
    distances, indices = metrics.knn(queries, gallery, 38, own=own)
    assert not (indices == own[:, None]).any() and distances.isfinite().sum() == 30 * 38
    distances, indices = metrics.knn(queries, gallery, 99, own=own.numpy())
    assert distances.shape == (30, 39) and (indices.sort(1).values == torch.arange(39)).all()
    last = distances[:, -1] == torch.inf
    assert torch.equal(last, own >= 0) and torch.equal(indices[last, -1], own[last])


@pytest.mark.parametrize("gallery, k, found", [(None, 5, 2), (torch.randn(4, 3), 9, 4)])
def test_k_is_cut_to_what_there_is(gallery, k, found):
    for result in metrics.knn(torch.randn(3, 3), gallery, k):
        assert result.shape == (3, found)


def test_one_image_has_no_neighbours():
    distances, indices = metrics.knn(torch.randn(1, 3), None, 5)
    assert distances.shape == indices.shape == (1, 0)


@pytest.mark.parametrize("offset, scale", [(1e4, 1), (0, 1e17), (0, 1e-25), (1e17, 1e15)])
def test_far_large_and_small_features_lose_no_neighbour(offset, scale):
    points = torch.randn(300, 8) * scale + offset
    expected, nearest = exact(points, None, 5)
    distances, indices = metrics.knn(points, None, 5)
    expected = expected.gather(1, nearest)
    assert torch.allclose(distances.double() / scale, expected / scale, rtol=1e-3)
    assert torch.allclose(exact(points, None, 5)[0].gather(1, indices) / scale, expected / scale,
                          rtol=1e-3)


def test_a_few_outliers_do_not_blur_the_rest():
    points = torch.randn(300, 8)
    points[::100] *= 30
    expected, nearest = exact(points, None, 5)
    _, indices = metrics.knn(points, None, 5)
    assert torch.allclose(expected.gather(1, indices), expected.gather(1, nearest), rtol=1e-3)


def test_duplicates_are_at_distance_0_in_the_order_of_their_indices():
    points = (torch.randn(50, 8) + 3).repeat(6, 1)
    distances, indices = metrics.knn(points, None, 5)
    own = torch.arange(300)[:, None]
    assert (indices % 50 == own % 50).all()
    assert (indices != own).all()
    assert (indices.diff(dim=1) > 0).all()
    assert (distances == 0).all()


def test_equal_points_have_distinct_neighbours_but_themselves():
    _, indices = metrics.knn(torch.ones(300, 4), None, 9)
    assert (indices != torch.arange(300)[:, None]).all()
    assert (indices.diff(dim=1) > 0).all()


@pytest.mark.parametrize("points", [torch.randint(-1, 2, (400, 5)).float(), torch.randn(400, 5)],
                         ids=["ties", "distinct"])
def test_a_larger_k_puts_the_same_neighbours_first(points):
    most, nearest = metrics.knn(points, None, 30)
    for k in (1, 2, 7, 29):
        distances, indices = metrics.knn(points, None, k)
        assert torch.allclose(distances, most[:, :k], atol=1e-5)
        sure = most[:, :k] < most[:, k, None] - 1e-5    # what ties with the k-th is open
        assert torch.equal(indices[sure], nearest[:, :k][sure])


def test_arrays_and_other_precisions_are_taken():
    points = torch.randn(40, 4).bfloat16()
    check(metrics.knn(points, None, 3), points, None, 3)
    check(metrics.knn(points.double().numpy(), points, 4), points, points, 4)


@pytest.mark.parametrize("value, why", [(torch.nan, "not finite"), (torch.inf, "not finite"),
                                        (1e19, "so large")])
def test_what_cannot_be_compared_is_refused(value, why):
    points = torch.randn(20, 4)
    points[3, 1] = value
    for queries, gallery in ((points, None), (torch.randn(5, 4), points)):
        with pytest.raises(TrainingError, match=rf"^1 of 20 embeddings are {why}.*in row 3"):
            metrics.knn(queries, gallery, 2)


def test_products_on_the_cpu_are_full_whatever_the_training_chose():
    queries, gallery = torch.randn(64, 256), torch.randn(80, 256)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = metrics.knn(queries, gallery, 5)
    finally:
        torch.set_float32_matmul_precision("highest")
    check(found, queries, gallery, 5)


@pytest.mark.gpu
def test_products_on_a_gpu_are_full_whatever_the_training_chose():
    queries, gallery = torch.randn(64, 256), torch.randn(80, 256)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = metrics.knn(queries.cuda(), gallery.cuda(), 5)
    finally:
        torch.set_float32_matmul_precision("highest")
    check([part.cpu() for part in found], queries, gallery, 5)


@pytest.mark.gpu
@pytest.mark.parametrize("n_gpus", [0, None], ids=["with torch", "with what there is"])
def test_a_gpu_finds_what_the_cpu_finds(n_gpus, monkeypatch):
    if n_gpus is not None:
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: n_gpus)
    points, gallery = torch.randn(5000, 64), torch.randn(3000, 64)
    gallery[::2] = points[:3000:2]
    both = torch.full((5000,), -1)
    both[:3000:2] = torch.arange(0, 3000, 2)
    for others, own in ((None, None), (gallery, None), (gallery, both)):
        _, expected = metrics.knn(points, others, 20, own=own)
        _, indices = metrics.knn(points, others, 20, own=own, device="cuda")
        assert indices.is_cuda and (indices.cpu() == expected).float().mean() > 0.999
