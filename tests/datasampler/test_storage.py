import numpy as np
import pytest
import torch

from datasampler.storage import Storage, pairwise_squared_distances


def storage(n=6, **changes):
    return Storage(n, **{"momentum": -1, "step": 1.0, "follows": True, "n_candidates": 4,
                         "projection_dim": -1} | changes)


def test_an_update_replaces_what_was_stored():
    stored = storage()
    start = torch.randn(6, 3)
    stored.fill(start)
    new = torch.randn(2, 3)
    stored.update(torch.tensor([4, 1]), new)
    expected = start.clone()
    expected[4], expected[1] = new[0], new[1]
    assert torch.equal(stored.embeddings, expected)


@pytest.mark.parametrize("full", [False, True])
def test_momentum_follows_the_rule(full):
    """delta <- mu delta + (1 - mu)(v - s), s <- v + eta delta, as a loop over images."""
    mu, eta = 0.7, 0.4
    stored = storage(momentum=mu, step=eta)
    values = [[float(x) for x in row] for row in torch.randn(6, 2).tolist()]
    deltas = [[0.0, 0.0] for _ in range(6)]
    stored.fill(torch.tensor(values))
    assert torch.equal(stored.snapshot(), torch.tensor(values))
    for _ in range(4):
        rows = list(range(6)) if full else torch.randperm(6)[:3].tolist()
        new = torch.randn(len(rows), 2)
        for row, v in zip(rows, new.tolist(), strict=True):
            for k in range(2):
                deltas[row][k] = mu * deltas[row][k] + (1 - mu) * (v[k] - values[row][k])
                values[row][k] = v[k] + eta * deltas[row][k]
        if full:
            stored.fill(new)
        else:
            stored.update(torch.tensor(rows), new)
    torch.testing.assert_close(stored.embeddings, torch.tensor(values))


def test_an_image_that_comes_twice_counts_once():
    for momentum in (-1, 0.5):
        once, twice = storage(momentum=momentum), storage(momentum=momentum)
        start, new = torch.randn(6, 3), torch.randn(3, 3)
        once.fill(start)
        twice.fill(start)
        once.update(torch.tensor([2, 5]), new[:2])
        twice.update(torch.tensor([2, 5, 2]), new)
        assert torch.equal(once.embeddings, twice.embeddings)


def test_without_following_only_fill_changes_it():
    """--data_storage_no_update, and --data_idx_full_prec between its refreshes."""
    stored = storage(follows=False)
    stored.fill(torch.zeros(6, 3))
    stored.update(torch.tensor([1]), torch.ones(1, 3))
    assert not stored.embeddings.any()
    stored.fill(torch.ones(6, 3))
    assert stored.embeddings.all()


@pytest.mark.parametrize("flags, follows", [
    ([], True), (["--data_storage_no_update"], False), (["--data_idx_full_prec"], False)])
def test_which_flags_stop_it_from_following(make_opt, flags, follows):
    opt = make_opt("--data_sampler", "greedy_coreset", *flags)
    dataset = type("Dataset", (), {"labels": np.zeros(9)})
    assert Storage.from_opt(opt, dataset).follows == follows


def test_what_is_stored_is_fp32_without_a_graph_and_its_own():
    stored = storage()
    given = torch.randn(6, 3, requires_grad=True)
    stored.fill(given)
    stored.update(torch.tensor([0]), torch.ones(1, 3, dtype=torch.bfloat16, requires_grad=True))
    assert stored.embeddings.dtype == torch.float32 and not stored.embeddings.requires_grad
    assert not torch.equal(given[0], stored.embeddings[0])
    before = stored.snapshot()
    stored.update(torch.tensor([0]), torch.zeros(1, 3))
    assert not torch.equal(before, stored.embeddings)


def test_the_state_is_a_copy_of_plain_tensors():
    one, two = storage(momentum=0.5), storage(momentum=0.5)
    one.fill(torch.randn(6, 3))
    one.update(torch.tensor([1]), torch.ones(1, 3))
    two.load_state_dict(one.state_dict())
    one.update(torch.tensor([1]), torch.zeros(1, 3))
    assert not torch.equal(one.embeddings, two.embeddings)
    two.update(torch.tensor([1]), torch.zeros(1, 3))
    assert torch.equal(one.embeddings, two.embeddings) and torch.equal(one.delta, two.delta)
    empty = storage()
    empty.load_state_dict(storage().state_dict())
    assert empty.embeddings is None


def test_candidates_are_different_images():
    rng, stored = np.random.default_rng(0), storage(50, n_candidates=20)
    for _ in range(20):
        assert len(set(stored.candidates(rng))) == 20
    assert sorted(storage(6, n_candidates=99).candidates(rng)) == list(range(6))


def test_the_random_map_keeps_squared_distances_on_average():
    rng, snapshot = np.random.default_rng(0), torch.randn(10, 30)
    images = np.array([3, 1, 7])
    exact = storage().points(rng, snapshot, images)
    assert torch.equal(exact, snapshot[[3, 1, 7]].double())
    mapped = [storage(projection_dim=5).points(rng, snapshot, images) for _ in range(2000)]
    assert mapped[0].shape == (3, 5) and not torch.equal(mapped[0], mapped[1])
    mean = torch.stack([pairwise_squared_distances(points) for points in mapped]).mean(0)
    torch.testing.assert_close(mean, pairwise_squared_distances(exact), rtol=0.06, atol=0)


def test_pairwise_distances_are_exact_far_from_the_origin():
    points = torch.randn(7, 3).double() + 1e6
    expected = torch.tensor([[float((a - b).square().sum()) for b in points] for a in points])
    torch.testing.assert_close(pairwise_squared_distances(points).float(), expected)


@pytest.mark.gpu
def test_an_update_waits_for_nothing():
    stored = storage(momentum=0.5)
    stored.fill(torch.randn(6, 3))
    stored.update(torch.tensor([1]), torch.ones(1, 3, device="cuda"))
    assert stored.embeddings.is_cuda
    new, rows = torch.ones(2, 3, device="cuda"), torch.tensor([1, 2], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        stored.update(torch.tensor([1, 2]), new)
        stored.update(rows, new)
    finally:
        torch.cuda.set_sync_debug_mode("default")
