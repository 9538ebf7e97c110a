import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchminer import sampling
from utilities.geometry import distances


def test_relations_agree_with_a_loop():
    labels = torch.tensor([3, 1, 3, 3, 0])
    positives, negatives = sampling.relations(labels)
    for i in range(5):
        for j in range(5):
            assert positives[i, j] == (labels[i] == labels[j] and i != j)
            assert negatives[i, j] == (labels[i] != labels[j])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_columns_are_drawn_in_proportion_to_their_weights(dtype):
    weights = torch.tensor([0, 3, 0, 1, 4, 0, 2, 0], dtype=torch.int64).to(dtype)
    columns, found = sampling.draw(weights.expand(40_000, -1))
    observed = torch.bincount(columns, minlength=8) / 40_000
    assert found.all()
    assert torch.allclose(observed, weights / weights.sum(), atol=0.015)
    assert (observed[weights == 0] == 0).all()


def test_rows_without_weight_are_marked():
    weights = torch.zeros(3, 4, dtype=torch.int64)
    weights[1, 2] = 1
    columns, found = sampling.draw(weights)
    assert found.tolist() == [False, True, False]
    assert columns[1] == 2 and ((columns >= 0) & (columns < 4)).all()


@given(st.lists(st.sampled_from([0, 1, 2, sampling.ONE // 3, sampling.ONE]), min_size=1,
                max_size=40).filter(any),
       st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]))
def test_no_random_number_draws_a_column_without_weight(weights, uniform):
    """Also the extremes of what torch.rand returns."""
    rand, torch.rand = torch.rand, lambda shape, **options: torch.full(shape, uniform, **options)
    try:
        columns, found = sampling.draw(torch.tensor([weights]))
    finally:
        torch.rand = rand
    assert found and weights[columns[0]] > 0


def test_inverse_density_agrees_with_a_loop(batch, probability_loop):
    embeddings, labels = batch
    d, (_, negatives) = distances(embeddings, embeddings), sampling.relations(labels)
    weights = sampling.inverse_density(d, 6, negatives, lower_cutoff=0.9)
    expected = probability_loop(embeddings, lambda i: negatives[i].nonzero()[:, 0].tolist(), 0.9)
    assert weights.dtype == torch.int64
    assert torch.allclose(weights / weights.sum(1, keepdim=True), expected, atol=1e-5)


def test_inverse_density_of_nothing_is_zero():
    d = torch.rand(3, 3) * 2
    assert (sampling.inverse_density(d, 128, d > 3, lower_cutoff=0.5) == 0).all()


@pytest.mark.parametrize("dim", [2, 3, 128, 2048])
def test_inverse_density_has_a_weight_wherever_there_is_a_candidate(dim):
    """A maximum over all rows would leave those at an ordinary distance a weight of zero."""
    d = torch.tensor([[0.0, 2.0, 2.1], [1.4, 1.4, 2.0], [1.3, 1.4, 1.5]])
    candidates = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    weights = sampling.inverse_density(d, dim, candidates, lower_cutoff=0.5)
    assert (weights.amax(1) == sampling.ONE).all() and (weights >= 0).all()
    assert (weights[~candidates] == 0).all()
    assert weights[1, 0] == weights[1, 1]


def test_a_fallback_stands_in_for_rows_without_candidates():
    candidates = torch.tensor([[True, False], [False, False]])
    fallback = torch.tensor([[False, True], [True, True]])
    assert sampling.prefer(candidates, fallback).tolist() == [[True, False], [True, True]]
