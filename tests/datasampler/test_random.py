import numpy as np
import pytest

from datasampler.random import Sampler

LABELS = np.repeat([0, 1, 2], [3, 9, 48])


def drawn(name, batch_size=10):
    sampler = Sampler(LABELS, name, batch_size=batch_size, seed=0)
    return np.array([batch for _ in range(300) for batch in sampler])


@pytest.mark.parametrize("name", ["random", "full_random"])
def test_every_image_is_of_a_uniform_class(name):
    batches = drawn(name)
    shares = np.bincount(LABELS[batches].ravel()) / batches.size
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    counts = np.bincount(batches.ravel())
    for label in range(3):
        within = counts[label == LABELS]
        np.testing.assert_allclose(within / within.sum(), 1 / len(within), atol=0.03)


def test_both_names_are_one_sampler():
    assert (drawn("random") == drawn("full_random")).all()


def test_rrandom_ends_with_a_partner():
    batches = drawn("rrandom", batch_size=2)
    assert (LABELS[batches[:, 0]] == LABELS[batches[:, 1]]).all()
    assert (batches[:, 0] != batches[:, 1]).any()
    batches = drawn("rrandom")
    shares = np.bincount(LABELS[batches[:, :-1]].ravel()) / batches[:, :-1].size
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    # The partner's class is that of a random one, not always of the last.
    assert (LABELS[batches[:, -1]] != LABELS[batches[:, -2]]).any()


def test_random_semi_class_pairs_uniform_images():
    batches = drawn("random_semi_class")
    shares = np.bincount(LABELS[batches[:, ::2]].ravel()) / batches[:, ::2].size
    np.testing.assert_allclose(shares, [3 / 60, 9 / 60, 48 / 60], atol=0.02)
    assert (LABELS[batches[:, ::2]] == LABELS[batches[:, 1::2]]).all()
    partners = np.bincount(batches[:, 1::2][LABELS[batches[:, ::2]] == 0])
    np.testing.assert_allclose(partners / partners.sum(), 1 / 3, atol=0.05)
