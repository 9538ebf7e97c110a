import torch

import batchminer
from batchminer import distance
from batchminer.sampling import inverse_density, relations
from utilities.geometry import distances


def test_negatives_follow_the_golden_probabilities(golden, check_draws):
    arrays, _ = golden("criteria")
    check_draws(distance.Miner(lower_cutoff=0.5), arrays["embeddings"], arrays["labels"], n=2000,
                negatives=arrays["miner.distance.negative_probability"])


def test_weights_are_the_golden_probabilities(golden):
    arrays, _ = golden("criteria")
    embeddings, labels = arrays["embeddings"], arrays["labels"]
    weights = inverse_density(distances(embeddings, embeddings), embeddings.shape[1],
                              relations(labels)[1], lower_cutoff=0.5)
    assert torch.allclose(weights / weights.sum(1, keepdim=True),
                          arrays["miner.distance.negative_probability"], rtol=1e-4, atol=1e-7)


def test_draws_agree_with_a_loop(batch, check_draws, probability_loop, uniform_members):
    embeddings, labels = batch
    negatives = probability_loop(
        embeddings, lambda i: [j for j in range(12) if labels[j] != labels[i]], lower_cutoff=0.8)
    negatives[0] = 0  # no positive: not valid
    check_draws(distance.Miner(lower_cutoff=0.8), embeddings, labels,
                positives=uniform_members(labels), negatives=negatives)


def test_the_upper_cutoff_is_not_applied():
    """The original has it commented out; with it these anchors would have no negative."""
    embeddings = torch.eye(4)[[0, 0, 1, 1]]          # negatives all at sqrt(2) > 1.4
    triplets = distance.Miner(lower_cutoff=0.5)(embeddings, torch.tensor([0, 0, 1, 1]))
    assert triplets.valid.all()


def test_distances_of_two_and_more_are_mined():
    """NaN in the original: 1 - d^2/4 is zero, or negative by rounding."""
    x = torch.nn.functional.normalize(torch.randn(1, 128))
    embeddings = torch.cat([x, x, -x, -x, -1.001 * x, -1.001 * x])
    triplets = distance.Miner(lower_cutoff=0.5)(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert triplets.valid.all()
    assert triplets.negatives[:2].ge(2).all()


def test_near_negatives_are_no_likelier_than_at_the_lower_cutoff(check_draws):
    angles = torch.tensor([0.0, 0.0, 0.01, 0.1, 0.2])
    embeddings = torch.stack([angles.cos(), angles.sin()] + [torch.zeros(5)] * 6, 1)
    labels = torch.tensor([0, 0, 1, 1, 1])
    different = (labels[:, None] != labels).float()
    check_draws(distance.Miner(lower_cutoff=0.5), embeddings, labels,
                negatives=different / different.sum(1, keepdim=True))


def test_flags(make_opt):
    miner = batchminer.select("distance", make_opt("--miner_distance_lower_cutoff", 0.7))
    assert (miner.name, miner.lower_cutoff) == ("distance", 0.7)
