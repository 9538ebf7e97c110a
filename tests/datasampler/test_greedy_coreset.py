import types

import numpy as np
import pytest
import torch

import datasampler
from datasampler.greedy_coreset import MEASURES, Sampler, coreset
from datasampler.storage import Storage


def naive_distance(a, b, measure):
    if measure == "cosine":
        return 1 - float(a @ b / (a.norm() * b.norm()))
    squared = float((a - b).square().sum())
    return squared if measure == "euclidean" else squared ** 0.5


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_those_of_a_loop(measure):
    points = torch.randn(9, 4).double()
    expected = [[naive_distance(a, b, measure) for b in points] for a in points]
    np.testing.assert_allclose(MEASURES[measure](points), expected, atol=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_farthest_candidate_comes_next(measure):
    points = torch.randn(30, 4).double()
    chosen = coreset(np.random.default_rng(0), MEASURES[measure](points).numpy(), 12, False)
    for n in range(1, 12):
        def nearest(i, n=n):
            return min(naive_distance(points[i], points[j], measure) for j in chosen[:n])

        rest = [i for i in range(30) if i not in chosen[:n]]
        assert chosen[n] == max(rest, key=nearest)


def test_the_first_point_is_uniform():
    distances = MEASURES["euclidean"](torch.randn(5, 2).double()).numpy()
    rng = np.random.default_rng(0)
    firsts = np.bincount([coreset(rng, distances, 2, False)[0] for _ in range(3000)])
    np.testing.assert_allclose(firsts / 3000, 0.2, atol=0.03)


def test_softened_draws_from_the_farthest_three_percent():
    points = torch.randn(200, 3).double()
    distances = MEASURES["euclidean"](points).numpy()
    seen = set()
    for seed in range(200):
        chosen = coreset(np.random.default_rng(seed), distances, 4, True)
        for n in range(1, 4):
            rest = np.setdiff1d(np.arange(200), chosen[:n])
            nearest = distances[:, chosen[:n]].min(1)
            assert nearest[chosen[n]] >= np.percentile(nearest[rest], 97)
        rest = np.setdiff1d(np.arange(200), chosen[:1])
        seen.add((distances[rest, chosen[0]] > distances[chosen[1], chosen[0]]).sum())
    assert seen == set(range(6))        # each of the 6 farthest of 199, not only the very farthest


@pytest.mark.parametrize("softened", [False, True])
def test_no_candidate_is_chosen_twice(softened):
    for points in (torch.zeros(10, 3), torch.randn(10, 3), torch.randn(1, 3).repeat(10, 1)):
        distances = MEASURES["euclidean"](points.double()).numpy()
        assert sorted(coreset(np.random.default_rng(0), distances, 10, softened)) == list(range(10))


def filled(labels, embeddings, *, full, batch_size=20, measure="euclidean"):
    """A sampler that chooses among all images."""
    storage = Storage(len(labels), momentum=-1, step=1, follows=True, n_candidates=len(labels),
                      projection_dim=-1)
    sampler = Sampler(labels, batch_size=batch_size, samples_per_class=2, seed=0, full=full,
                      measure=measure, softened=False, storage=storage)
    sampler.fill(embeddings)
    return sampler


def test_batches_cover_clusters():
    """Of ten far clusters with one image dominating in number, a coreset has them all."""
    labels = np.repeat(np.arange(10), [1] * 9 + [91])
    centres = 100 * torch.randn(10, 4)
    for batch in filled(labels, centres[labels] + torch.randn(100, 4), full=False):
        assert sorted(labels[batch]) == sorted(list(range(10)) * 2)


def test_full_coresets_have_one_more_image_of_a_chosen_class():
    labels = np.repeat(np.arange(10), 10)
    for batch in filled(labels, torch.randn(100, 4), full=True, measure="cosine"):
        assert len(set(batch[:19])) == 19 and labels[batch[19]] in labels[batch[:19]]


def test_the_percentile_is_that_of_candidates_not_yet_chosen():
    """Of 20 left of 40 only the farthest lies above it; with the chosen ones, two would."""
    distances = MEASURES["euclidean"](torch.randn(40, 3).double()).numpy()
    for seed in range(20):
        chosen = coreset(np.random.default_rng(seed), distances, 30, True)
        for n in range(20, 30):
            rest = np.setdiff1d(np.arange(40), chosen[:n])
            assert chosen[n] == rest[distances[rest][:, chosen[:n]].min(1).argmax()]


def test_the_partner_s_class_is_that_of_a_random_one():
    # Of a class of one the partner is its image.
    sampler = filled(np.arange(40), torch.randn(40, 4), full=True, batch_size=6)
    places = [batch.index(batch[5]) for _ in range(50) for batch in sampler]
    np.testing.assert_allclose(np.bincount(places, minlength=5) / len(places), 0.2, atol=0.08)


def test_only_the_full_coreset_has_a_choice_of_distance(make_opt):
    dataset = types.SimpleNamespace(labels=np.repeat(np.arange(60), 4))
    for name, measure in (("greedy_coreset", "euclidean"), ("full_greedy_coreset", "cosine")):
        opt = make_opt("--data_sampler", name, "--data_sim_measure", "cosine", "--bs", 24)
        assert datasampler.select(name, opt, dataset).measure == measure
