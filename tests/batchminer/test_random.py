import collections
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchminer import random


def all_triplets(labels):
    return {t for t in itertools.permutations(range(len(labels)), 3)
            if labels[t[0]] == labels[t[1]] != labels[t[2]]}


def mined(labels):
    triplets = random.Miner()(torch.zeros(len(labels), 2), torch.tensor(labels))
    return list(zip(*(rows[triplets.valid].tolist() for rows in triplets[:3]), strict=True))


def test_every_valid_triplet_is_equally_likely():
    """Also where classes differ in size; anchor and positive differ (in the original they may not).
    """
    labels = [4, 0, 0, 2, 0, 2]
    possible = all_triplets(labels)
    counts = collections.Counter(t for _ in range(3000) for t in mined(labels))
    assert counts.keys() == possible
    for count in counts.values():
        assert abs(count / 3000 - 6 / len(possible)) < 0.04


@given(st.lists(st.integers(0, 4), min_size=2, max_size=14))
def test_triplets_are_valid_and_distinct_and_as_many_as_there_are(labels):
    possible, found = all_triplets(labels), mined(labels)
    assert len(set(found)) == len(found) == min(len(labels), len(possible))
    assert set(found) <= possible


def test_numbers_come_in_every_order_equally_often():
    """Sampling without replacement is uniform over ordered draws: 5 * 4 * 3 of them."""
    counts = collections.Counter(
        tuple(random.distinct(torch.tensor(5), 3)[0].tolist()) for _ in range(12_000))
    assert len(counts) == 60
    assert max(abs(count / 200 - 1) for count in counts.values()) < 0.4


@pytest.mark.parametrize("total", [1, 7, 199, 200, 201, 1000, 10**12])
def test_numbers_are_distinct_and_in_range(total):
    numbers, valid = random.distinct(torch.tensor(total), 200)
    numbers = numbers[valid]
    assert len(numbers) == len(numbers.unique()) == min(total, 200)
    assert numbers.min() >= 0 and numbers.max() < total


def test_a_large_batch_reaches_all_of_its_triplets():
    """1024 rows have 268 million triplets, which are never all made."""
    labels = torch.arange(1024) % 2
    a, p, n, valid = random.Miner()(torch.zeros(1024, 2), labels)
    assert valid.all() and (labels[a] == labels[p]).all() and (labels[a] != labels[n]).all()
    for rows in (a, p, n):
        assert abs(float(rows.float().mean()) - 511.5) < 50
