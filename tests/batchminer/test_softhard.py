import torch

import batchminer
from batchminer import softhard
from batchminer.sampling import relations
from utilities.geometry import distances


def test_candidates_are_the_golden_ones(golden):
    arrays, _ = golden("criteria")
    found = softhard.Miner.hard(arrays["embeddings"], *relations(arrays["labels"]))
    assert found[0].equal(arrays["miner.semihard.positive_candidates"])
    assert found[1].equal(arrays["miner.semihard.negative_candidates"])


def test_draws_are_uniform_over_the_golden_candidates(golden, check_draws):
    arrays, _ = golden("criteria")
    expected = {}
    for kind in ("positive", "negative"):
        candidates = arrays[f"miner.semihard.{kind}_candidates"].float()
        assert candidates.any(1).all()
        expected[f"{kind}s"] = candidates / candidates.sum(1, keepdim=True)
    check_draws(softhard.Miner(), arrays["embeddings"], arrays["labels"], **expected)


def hard_loop(d, labels):
    """[(positives, negatives, hard positives, hard negatives)] of each row, by definition."""
    rows, found = range(len(labels)), []
    for i in rows:
        positives = [j for j in rows if labels[j] == labels[i] and j != i]
        negatives = [j for j in rows if labels[j] != labels[i]]
        nearest = min(d[i][n] for n in negatives)
        farthest = max((d[i][p] for p in positives), default=0)
        found.append((positives, negatives, [p for p in positives if d[i][p] > nearest],
                      [n for n in negatives if d[i][n] < farthest]))
    return found


def test_draws_agree_with_a_loop(batch, distance_loop, check_draws):
    embeddings, labels = batch
    expected = torch.zeros(2, 12, 12)
    for i, (positives, negatives, hard_positives, hard_negatives) in enumerate(
            hard_loop(distance_loop(embeddings), labels)):
        if positives:
            chosen = hard_positives or positives
            expected[0, i, chosen] = 1 / len(chosen)
            chosen = hard_negatives or negatives
            expected[1, i, chosen] = 1 / len(chosen)
    check_draws(softhard.Miner(), embeddings, labels, positives=expected[0],
                negatives=expected[1])


def test_uniform_where_nothing_is_hard():
    embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1], [5.2]])
    labels, seen = torch.tensor([0, 0, 1, 1, 1]), set()
    for _ in range(40):
        triplets = softhard.Miner()(embeddings, labels)
        assert triplets.valid.all()
        seen.add(int(triplets.negatives[0]))
    assert seen == {2, 3, 4}


def test_a_negative_as_far_as_the_farthest_positive_is_not_hard():
    """Row 2 is as far from row 0 as its only positive: neither the one nor the other is hard."""
    embeddings = torch.tensor([[0.0], [1], [-1], [3]])
    labels = torch.tensor([0, 0, 1, 2])
    d = distances(embeddings, embeddings)
    assert d[0, 1] == d[0, 2]
    hard_positives, hard_negatives = softhard.Miner.hard(embeddings, *relations(labels))
    assert not hard_positives[0].any() and not hard_negatives[0].any()


def test_anticollapse_semihard_may_draw_a_positive_candidate_as_negative(
        batch, distance_loop, check_draws):
    embeddings, labels = batch
    expected, crossed = torch.zeros(2, 12, 12), 0
    for i, (own, others, hard_own, hard_others) in enumerate(
            hard_loop(distance_loop(embeddings), labels)):
        if own:
            chosen = hard_own or own
            expected[0, i, chosen] = 1 / len(chosen)
            chosen = hard_others + hard_own or others
            expected[1, i, chosen] = 1 / len(chosen)
            crossed += len(hard_own)
    assert crossed
    check_draws(softhard.Miner(anticollapse=True), embeddings, labels,
                positives=expected[0], negatives=expected[1])


def test_flags(make_opt):
    for name, anticollapse in (("softhard", False), ("anticollapse_semihard", True)):
        miner = batchminer.select(name, make_opt())
        assert (miner.name, miner.anticollapse) == (name, anticollapse)
