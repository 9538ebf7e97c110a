import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasampler
from datasampler.base import spread
from datasampler.class_random import Sampler

UNBALANCED = np.repeat([0, 1, 2], [2, 10, 60])


def drawn(labels, epochs=40, **changes):
    sampler = Sampler(np.asarray(labels), **{"batch_size": 12, "samples_per_class": 2, "seed": 0,
                                             "unique": False} | changes)
    return np.array([batch for _ in range(epochs) for batch in sampler])


def test_classes_come_uniformly_and_images_uniformly_within():
    batches = drawn(UNBALANCED)
    shares = np.bincount(UNBALANCED[batches[:, ::2]].ravel()) / batches[:, ::2].size
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    for label in range(3):
        images = batches[UNBALANCED[batches] == label]
        counts = np.bincount(images)[UNBALANCED[:images.max() + 1] == label]
        np.testing.assert_allclose(counts / counts.sum(), 1 / len(counts), atol=0.08)


def test_with_replacement_a_class_and_an_image_may_come_twice():
    batches = drawn(UNBALANCED)
    slots = UNBALANCED[batches[:, ::2]]
    assert any(len(set(row)) < 6 for row in slots.tolist())
    assert (batches[:, ::2] == batches[:, 1::2]).any()


def test_unique_repeats_neither_classes_nor_images():
    labels = np.repeat(np.arange(9), 5)
    batches = drawn(labels, unique=True)
    for batch in batches:
        assert len(set(batch.tolist())) == 12
        assert len(set(labels[batch].tolist())) == 6
    # Every class is as likely to open a batch: some features use its first half only.
    first = np.bincount(labels[batches[:, 0]], minlength=9) / len(batches)
    np.testing.assert_allclose(first, 1 / 9, atol=0.09)


def test_unique_repeats_as_evenly_as_it_can():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 30, 30])        # B/S = 6 of 4 classes
    for batch in drawn(labels, unique=True):
        slots = np.bincount(labels[batch], minlength=4) // 2
        assert sorted(slots) == [1, 1, 2, 2]
        for label in range(4):
            counts = np.bincount(batch[labels[batch] == label])
            counts = counts[counts > 0]
            room = (labels == label).sum()
            assert len(counts) == min(2 * slots[label], room) and np.ptp(counts) <= 1


@given(st.integers(1, 20), st.integers(0, 60))
def test_spread_is_even(n, k):
    draws = spread(np.random.default_rng(0), n, k)
    assert draws.shape == (k,) and np.ptp(np.bincount(draws, minlength=n)) <= 1


@pytest.mark.parametrize("name", ["class_random", "class_random_unique"])
def test_the_name_says_whether_classes_repeat(name, make_opt):
    labels = np.repeat(np.arange(9), 5)
    opt = make_opt("--data_sampler", name, "--bs", 12, "--samples_per_class", 2)
    sampler = datasampler.select(name, opt, types.SimpleNamespace(labels=labels))
    classes = [set(labels[batch]) for _ in range(10) for batch in sampler]
    assert all(len(some) == 6 for some in classes) == (name == "class_random_unique")


def test_filling_up_takes_uniform_images_of_the_leader_s_class():
    labels = np.repeat(np.arange(5), 10)
    sampler = Sampler(labels, batch_size=20, samples_per_class=4, seed=0, unique=False)
    rng, leaders = np.random.default_rng(0), np.array([31, 7, 48])
    rows = np.array([sampler.filled_up(rng, leaders, 4).reshape(3, 4) for _ in range(2000)])
    assert (rows[..., 0] == leaders).all()
    for leader, partners in zip(leaders, rows[..., 1:].swapaxes(0, 1), strict=True):
        first = leader // 10 * 10
        for slot in partners.T:
            np.testing.assert_allclose(np.bincount(slot - first, minlength=10) / 2000, 0.1,
                                       atol=0.03)
        # Each partner is drawn for itself: two are the same one time in ten.
        np.testing.assert_allclose((partners[:, 0] == partners[:, 1]).mean(), 0.1, atol=0.03)
