"""Every way to search finds the same, the exact, neighbours."""

import faiss
import pytest
import torch

from metrics import mutual, neighbours

WAYS = ["faiss", "blocks", "mutual"]


def found(way, queries, gallery, k, monkeypatch):
    """(N, k) indices, gathered from the blocks of one way to search."""
    monkeypatch.setattr(neighbours, "QUERIES_PER_BLOCK", 50)
    monkeypatch.setitem(neighbours.BLOCK_BYTES, "cpu", 10_000)
    monkeypatch.setattr(mutual, "TILE", 64)
    monkeypatch.setattr(mutual, "SMALLEST", 16)
    if way == "mutual":
        assert gallery is None
        return mutual.search(queries, k, *neighbours._frame(queries, None),
                             torch.ones(1, queries.shape[1]))[0].long()
    search = neighbours._with_faiss if way == "faiss" else neighbours._in_blocks
    result = torch.full((len(queries), k), -1)
    for rows, indices in search(queries, gallery, k):
        result[rows] = indices
    return result


def exact(queries, gallery, k):
    distances = torch.cdist(queries.double(), (queries if gallery is None else gallery).double(),
                            compute_mode="donot_use_mm_for_euclid_dist")
    if gallery is None:
        distances.fill_diagonal_(torch.inf)
    return distances, distances.topk(k, largest=False).indices


@pytest.mark.parametrize("way", WAYS)
def test_finds_the_exact_neighbours_in_order(way, monkeypatch):
    points = torch.randn(300, 8)
    _, expected = exact(points, None, 9)
    assert torch.equal(found(way, points, None, 9, monkeypatch), expected)


@pytest.mark.parametrize("way", WAYS[:2])
def test_finds_neighbours_in_a_gallery(way, monkeypatch):
    queries, gallery = torch.randn(120, 8), torch.randn(77, 8)
    _, expected = exact(queries, gallery, 77)
    assert torch.equal(found(way, queries, gallery, 77, monkeypatch), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("offset, scale", [(1e4, 1), (0, 1e25), (0, 1e-25), (1e22, 1e20),
                                           (1e37, 1e36)])
def test_far_large_and_small_features_lose_no_neighbour(way, offset, scale, monkeypatch):
    points = torch.randn(300, 8) * scale + offset
    distances, expected = exact(points, None, 5)
    indices = found(way, points, None, 5, monkeypatch)
    assert torch.allclose(distances.gather(1, indices), distances.gather(1, expected), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_few_outliers_do_not_blur_the_rest(way, monkeypatch):
    points = torch.randn(300, 8)
    points[::100] *= 30
    distances, expected = exact(points, None, 5)
    indices = found(way, points, None, 5, monkeypatch)
    assert torch.allclose(distances.gather(1, indices), distances.gather(1, expected), rtol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_duplicates_find_one_another_and_not_themselves(way, monkeypatch):
    points = torch.randn(50, 8).repeat(6, 1)
    indices = found(way, points, None, 5, monkeypatch)
    own = torch.arange(300)[:, None]
    assert (indices % 50 == own % 50).all()
    assert (indices != own).all()
    assert (indices.sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_equal_points_have_distinct_neighbours_but_themselves(way, monkeypatch):
    indices = found(way, torch.ones(300, 4), None, 9, monkeypatch)
    assert (indices != torch.arange(300)[:, None]).all()
    assert (indices.sort(1).values.diff(dim=1) > 0).all()


def test_mutual_search_keeps_what_comes_late(monkeypatch):
    # Every later block is nearer to all the others than the earlier ones.
    points = torch.randn(300, 8) / torch.arange(1, 301)[:, None]
    _, expected = exact(points, None, 9)
    assert torch.equal(found("mutual", points, None, 9, monkeypatch), expected)


def test_mutual_search_does_not_depend_on_threads(monkeypatch):
    points = torch.randint(-1, 2, (400, 6)).float()  # full of ties
    one = found("mutual", points, None, 7, monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    for _ in range(3):
        assert torch.equal(found("mutual", points, None, 7, monkeypatch), one)


WEIGHTS = {"all": (1, 1, 1, 1), "two alike": (0.5, 2, 2, 0.5), "different": (0.5, 1, 2, 3),
           "one": (0, 0, 3, 0), "none of one": (0, 0.1, 0.1, 4)}


@pytest.mark.parametrize("names", [["two alike"], ["one"], ["all", "two alike"], ["one", "one "],
                                   ["none of one", "one"], list(WEIGHTS)], ids=" and ".join)
def test_weighted_searches_together_find_what_each_finds_alone(names, monkeypatch):
    monkeypatch.setattr(mutual, "TILE", 64)
    monkeypatch.setattr(mutual, "SMALLEST", 16)
    monkeypatch.setattr(mutual, "STRIP", 24)
    monkeypatch.setattr(mutual, "suits", lambda *_: True)
    points = torch.randn(300, 8) + 3
    weights = {name: torch.tensor(WEIGHTS[name.strip()]).float().repeat_interleave(2)
               for name in names}
    together = neighbours.Together(points, weights)
    for k in (5, 3, 9):
        for name in names:
            (rows, indices), = together.search(name, k)
            assert torch.equal(rows, torch.arange(300))
            assert torch.equal(indices, exact(points * weights[name], None, k)[1])


def test_searches_together_cost_one_pass_unless_a_deeper_one_is_asked_for(monkeypatch):
    monkeypatch.setattr(mutual, "suits", lambda *_: True)
    depths, found = [], mutual.search
    monkeypatch.setattr(mutual, "search", lambda *given: depths.append(given[1]) or found(*given))
    together = neighbours.Together(torch.randn(300, 4), {"a": torch.ones(4), "b": torch.rand(4)})
    for name, k in (("a", 5), ("b", 5), ("b", 2), ("a", 6), ("b", 6)):
        next(together.search(name, k))
    assert depths == [5, 6]


class OnGpu(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("suits, kind", [(False, torch.Tensor), (True, OnGpu)])
def test_what_is_cheaper_alone_is_not_searched_together(suits, kind, monkeypatch):
    monkeypatch.setattr(mutual, "suits", lambda *_: suits)
    points = torch.randn(300, 4).as_subclass(kind)
    together = neighbours.Together(points, {"a": torch.ones(4), "b": torch.rand(4)})
    assert together.search("a", 5) is None


def test_weights_that_leave_nothing_are_refused():
    points, weights = torch.randn(300, 4), torch.tensor([[1.0] * 4, [0.0] * 4])
    with pytest.raises(AssertionError, match="all 0"):
        mutual.search(points, 5, *neighbours._frame(points, None), weights)


@pytest.mark.parametrize("n, k, way", [(100, 5, "faiss"), (8192, 128, "mutual"),
                                       (8192, 129, "faiss")])
def test_many_points_and_few_neighbours_are_searched_mutually(n, k, way, monkeypatch):
    called = []
    monkeypatch.setattr(mutual, "search", lambda *_: called.append("mutual") or [torch.empty(n, k)])
    monkeypatch.setattr(neighbours, "_with_faiss", lambda *_: called.append("faiss") or ())
    list(neighbours.search(torch.zeros(n, 2), None, k))
    assert called == [way]
    called.clear()
    list(neighbours.search(torch.zeros(n, 2), torch.zeros(n, 2), k))
    assert called == ["faiss"]


@pytest.mark.parametrize("n, k, weights, suits", [
    (4096, 64, torch.ones(4, 512), True), (4095, 1, torch.ones(2, 512), False),
    (4096, 1, None, False), (60_000, 65, torch.ones(2, 512), False),
    (60_000, 64, torch.ones(5, 512), False), (60_000, 1, torch.rand(2, 9), False),
    (60_000, 1, torch.rand(2, 8).repeat(1, 64), True)])
def test_searching_for_several_at_once_pays_earlier_and_keeps_to_its_memory(n, k, weights, suits):
    assert mutual.suits(n, k, weights) == suits


def test_products_on_the_cpu_are_full_whatever_the_training_chose():
    torch.set_float32_matmul_precision("medium")
    try:
        points, gallery = torch.randn(64, 256), torch.randn(80, 256)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, similarity = next(neighbours.similarities(points, gallery))
    finally:
        torch.set_float32_matmul_precision("highest")
    centred = gallery.double() - gallery.double().mean(0)
    exact = (points.double() - gallery.double().mean(0)) @ centred.T - centred.square().sum(1) / 2
    scale = torch.cat([points, gallery]).sub(gallery.mean(0)).abs().max()
    assert torch.allclose(similarity.double() * scale**2, exact, atol=1e-3)


@pytest.mark.gpu
def test_products_on_a_gpu_are_full_whatever_the_training_chose():
    queries, gallery = torch.randn(64, 256), torch.randn(80, 256)
    _, expected = next(neighbours.similarities(queries, gallery))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            _, similarity = next(neighbours.similarities(queries.cuda(), gallery.cuda()))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.allclose(similarity.cpu(), expected, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds():
    points, gallery = torch.randn(5000, 64), torch.randn(3000, 64)
    for others, k in ((None, 20), (gallery, 20)):
        expected = torch.cat([found for _, found in neighbours.search(points, others, k)])
        others = None if others is None else others.cuda()
        for search in (neighbours.search, neighbours._in_blocks):
            indices = torch.cat([found for _, found in search(points.cuda(), others, k)]).cpu()
            assert (indices == expected).float().mean() > 0.999


@pytest.mark.parametrize("values", ["ties", "equal", "distinct"])
def test_mutual_search_orders_ties_the_same_for_any_k(values, monkeypatch):
    points = {"ties": torch.randint(-1, 2, (400, 5)).float(), "equal": torch.ones(400, 5),
              "distinct": torch.randn(400, 5)}[values]
    most = found("mutual", points, None, 30, monkeypatch)
    for k in (1, 2, 7, 29):
        assert torch.equal(found("mutual", points, None, k, monkeypatch), most[:, :k])


def test_a_query_that_is_not_among_its_neighbours_leaves_the_last_one_out():
    without = neighbours._without_self(torch.tensor([[5, 6, 7], [1, 4, 9]]), torch.tensor([0, 1]))
    assert without.tolist() == [[5, 6], [4, 9]]


def test_an_index_lies_on_the_device_it_is_asked_for(monkeypatch):
    class Resources:
        def setTempMemory(self, n_bytes):
            self.n_bytes = n_bytes

    class Index:
        def __init__(self, resources, dim, options):
            self.given = resources.n_bytes, dim, options.device

    class Options:
        device = 0

    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatL2", Index, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatConfig", Options, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    assert neighbours.flat_index(8, torch.device("cuda", 1)).given == (2**28, 8, 1)
    assert isinstance(neighbours.flat_index(8, torch.device("cpu")), faiss.IndexFlatL2)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert isinstance(neighbours.flat_index(8, torch.device("cuda", 1)), faiss.IndexFlatL2)
