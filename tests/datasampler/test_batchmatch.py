import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

import batchminer
import criteria
from datasampler.batchmatch import DISTANCES, Sampler
from datasampler.storage import Storage

LABELS = np.repeat(np.arange(10), 8)


def sampler(name, labels=LABELS, n_candidates=40, **changes):
    storage = Storage(len(LABELS), momentum=-1, step=1.0, follows=True, n_candidates=n_candidates,
                      projection_dim=-1)
    made = Sampler(labels, name, storage=storage, **{
        "batch_size": 12, "samples_per_class": 3, "seed": 0, "n_subsets": 5} | changes)
    made.fill(torch.randn(80, 6, generator=torch.Generator().manual_seed(3)))
    return made


def frechet(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root


def lengths(x):
    return np.array([np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.combinations(x, 2)])


def first_moment(x, y):
    return np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum())


def second_moment(x, y):
    return np.sqrt(((x.std(0, ddof=1) - y.std(0, ddof=1)) ** 2).sum())


def distance_moments(x, y):
    p, q = lengths(x), lengths(y)
    return (first_moment(x, y) + second_moment(x, y) + 5 * abs(p.mean() - q.mean())
            + 5 * abs(p.std(ddof=1) - q.std(ddof=1)))


def distance_histograms(x, y):
    edges = np.linspace(0, lengths(x).max(), 51)
    p, q = (np.histogram(lengths(z), edges)[0] for z in (x, y))
    both = (wasserstein_distance(edges[1:], edges[1:], *weights) for weights in ((p, q), (q, p)))
    return first_moment(x, y) + second_moment(x, y) + 75 * sum(both) / 2


NAIVE = {"fid_batchmatch": frechet, "spc_fid_batchmatch": frechet,
         "firstmoment_batchmatch": first_moment, "distmoment_batchmatch": distance_moments,
         "disthist_batchmatch": distance_histograms}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("shape", [(40, 5, 12), (30, 8, 4), (12, 20, 6)], ids=str)
def test_distances_are_those_of_a_loop_over_subsets(name, shape):
    """Also with fewer images than dimensions, where covariances have no full rank."""
    n_points, dimension, n = shape
    points = torch.randn(n_points, dimension).double() * torch.rand(dimension) + 3
    subsets = torch.stack([torch.randperm(n_points)[:n] for _ in range(4)])
    expected = [NAIVE[name](points.numpy(), points[subset].numpy()) for subset in subsets]
    np.testing.assert_allclose(DISTANCES[name](points, subsets), expected, rtol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_candidates_themselves_are_at_no_distance(name):
    points = torch.randn(20, 6).double()
    order = torch.randperm(20)[None]
    np.testing.assert_allclose(DISTANCES[name](points, order), 0, atol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_single_image_has_a_distance(name):
    points = torch.randn(20, 6).double()
    assert DISTANCES[name](points, torch.tensor([[3], [4]])).isfinite().all()


def test_frechet_is_safe_where_roots_are_delicate():
    points = torch.randn(30, 64).double()
    points[15:] = points[:15]                       # rank 14 of 64
    for scale in (1e-12, 1.0, 1e6):
        values = DISTANCES["fid_batchmatch"](points * scale, torch.arange(8).view(2, 4))
        assert values.isfinite().all() and (values >= 0).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_the_closest_subset_becomes_the_batch(name, monkeypatch):
    seen = {}

    def spy(points, subsets):
        seen.update(points=points, subsets=subsets, values=DISTANCES[name](points, subsets))
        return seen["values"]

    made = sampler(name)
    made.distance = spy
    snapshot = made.storage.snapshot()
    for batch in made:
        best = seen["points"][seen["subsets"][seen["values"].argmin()]].float()
        chosen = batch if name == "spc_fid_batchmatch" else batch[::3]
        assert torch.equal(snapshot[chosen], best)
        assert seen["subsets"].shape == (5, 12 if name == "spc_fid_batchmatch" else 4)
        for subset in seen["subsets"].tolist():
            assert len(set(subset)) == len(subset)


class Recorder(nn.Module):
    """A criterion with a parameter, a random part and a memory of what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.shown = []

    def forward(self, embeddings, labels):
        value = self.weight * embeddings.square().mean() + 0.01 * torch.rand(())
        self.shown.append((embeddings, labels, value, torch.is_grad_enabled()))
        return value

    def __deepcopy__(self, memo):
        twin = Recorder()
        twin.weight = copy.deepcopy(self.weight)
        twin.shown = self.shown
        return twin


def test_the_criterion_s_lowest_value_wins():
    made, criterion = sampler("criterion_batchmatch"), Recorder()
    made.bind(criterion)
    snapshot = made.storage.snapshot()
    before = torch.get_rng_state()
    for batch in made:
        shown, criterion.shown[:] = criterion.shown[-5:], []
        embeddings, labels, _, with_gradient = min(shown, key=lambda entry: float(entry[2]))
        assert torch.equal(snapshot[batch], embeddings) and not with_gradient
        assert labels.tolist() == LABELS[batch].tolist()
        assert (labels.view(4, 3) == labels.view(4, 3)[:, :1]).all()
    assert torch.equal(torch.get_rng_state(), before) and criterion.weight.grad is None


def test_batches_are_compared_by_the_criterion_at_the_beginning_of_the_epoch():
    ahead, behind = sampler("criterion_batchmatch"), sampler("criterion_batchmatch")
    criterion = Recorder()
    for made in (ahead, behind):
        made.bind(criterion)
    expected, drawn = list(ahead), []
    for batch in behind:
        drawn.append(batch)
        criterion.weight.data.mul_(-1)
    assert drawn == expected
    criterion.weight.data.fill_(-1)
    behind.set_epoch(0)
    assert list(behind) != expected


def test_a_loss_with_its_miner_can_compare_batches(make_opt):
    opt = make_opt()
    miner = batchminer.select("distance", opt)
    made = sampler("criterion_batchmatch")
    made.bind(criteria.select("margin", opt, n_classes=10, batchminer=miner))
    first = list(made)
    made.set_epoch(0)
    assert list(made) == first


def test_without_a_criterion_there_is_a_clear_error():
    with pytest.raises(RuntimeError, match="criterion_batchmatch has no criterion: call bind"):
        iter(sampler("criterion_batchmatch"))


@pytest.mark.parametrize("name, n_candidates, n_points", [
    ("fid_batchmatch", 40, 40), ("spc_fid_batchmatch", 40, 39),     # 13 classes, 3 images each
    ("spc_fid_batchmatch", 6, 12)])                                 # at least a batch
def test_how_many_candidates_are_drawn(name, n_candidates, n_points):
    shapes, made = [], sampler(name, n_candidates=n_candidates)

    def spy(points, subsets):
        shapes.append(points.shape)
        return DISTANCES[name](points, subsets)

    made.distance = spy
    assert len(list(made)) == len(shapes)
    assert set(shapes) == {(n_points, 6)}


def test_a_value_that_is_no_number_never_wins():
    seen, made = {}, sampler("fid_batchmatch")

    def distance(points, subsets):
        seen["points"] = points[subsets[2]]
        return torch.tensor([np.nan, 3.0, 1.0, np.nan, 2.0])

    made.distance = distance
    snapshot = made.storage.snapshot().double()
    for batch in made:
        assert torch.equal(snapshot[batch[::3]], seen["points"])


def test_the_criterion_sees_the_labels_of_the_dataset():
    labels = LABELS * 7 + 3
    made, criterion = sampler("criterion_batchmatch", labels), Recorder()
    made.bind(criterion)
    snapshot = made.storage.snapshot()
    list(made)
    for embeddings, shown, *_ in criterion.shown:
        rows = (embeddings[:, None] == snapshot).all(2).int().argmax(1)
        assert shown.tolist() == labels[rows].tolist()


class Noise(nn.Module):
    """A criterion that is nothing but the draw of its miner."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, embeddings, labels):
        self.drawn.append(float(torch.rand(())))
        return torch.zeros(())

    def __deepcopy__(self, memo):
        return self


def test_each_batch_is_compared_under_its_own_random_state():
    made, criterion = sampler("criterion_batchmatch"), Noise()
    made.bind(criterion)
    list(made)
    first, criterion.drawn = criterion.drawn, []
    assert len(set(first)) == len(first) == 5 * len(made)
    made.set_epoch(0)
    list(made)
    assert criterion.drawn == first
