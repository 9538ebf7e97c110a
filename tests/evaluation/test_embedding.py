"""The embeddings that evaltypes derive."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F

from evaluation.embedding import derive


def test_the_combined_embedding_agrees_with_the_golden_one(golden):
    tensors, cases = golden("criteria")
    features = ("discriminative", "selfsimilarity", "shared", "intra")
    heads = torch.cat([tensors[f"separation.{name}"] for name in features], dim=1)
    derived = derive(heads, cases["combined"], features, normalize=True)
    torch.testing.assert_close(derived, tensors["combined"], rtol=1e-4, atol=1e-6)


@pytest.fixture
def heads():
    a, b = F.normalize(torch.randn(2, 5, 4), dim=2)
    return Namespace(a=a, b=b)


def test_a_feature_is_its_head_unchanged(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    derived = derive(joined, "b", ("a", "b"), normalize=True)
    assert torch.equal(derived, heads.b) and derived.is_contiguous()


def test_combined_weighs_and_joins_in_the_evaltypes_order(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    derived = derive(joined, "Combined_b_a-2-0.5", ("a", "b"), normalize=False)
    assert torch.equal(derived, torch.cat([2 * heads.b, 0.5 * heads.a], dim=1))


def test_sum_weighs_and_adds(heads):
    joined = torch.cat([heads.a, heads.b], dim=1)
    derived = derive(joined, "Sum_a_b-2-0.5", ("a", "b"), normalize=False)
    assert torch.allclose(derived, 2 * heads.a + 0.5 * heads.b)


@pytest.mark.parametrize("evaltype", ["Combined_a_b", "Sum_a_b"])
def test_a_zero_embedding_stays_zero(evaltype):
    assert torch.equal(derive(torch.zeros(3, 8), evaltype, ("a", "b"), normalize=True).unique(),
                       torch.zeros(1))


@pytest.mark.parametrize("evaltype", ["Combined_a_b-2-0.5", "Sum_a_b-2-0.5"])
def test_mixtures_are_normalised_when_the_architecture_normalises(heads, evaltype):
    joined = torch.cat([heads.a, heads.b], dim=1)
    raw, unit = (derive(joined, evaltype, ("a", "b"), normalize=flag) for flag in (False, True))
    assert torch.allclose(unit.norm(dim=1), torch.ones(5))
    assert torch.allclose(unit * raw.norm(dim=1, keepdim=True), raw, atol=1e-6)
