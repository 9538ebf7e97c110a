import torch

import batchminer
from batchminer import shared_distance

NEG, FULL = "shared_neg_distance", "shared_full_distance"


def miner(name, lower_cutoff=0.5):
    return shared_distance.Miner(lower_cutoff=lower_cutoff,
                                 positives_by_distance=name == FULL)


def test_negatives_follow_the_golden_probabilities(golden, check_draws):
    arrays, _ = golden("criteria")
    for name in (NEG, FULL):
        check_draws(miner(name), arrays["embeddings"], arrays["labels"],
                    negatives=arrays["miner.shared.negative_probability"])


def test_positives_agree_with_a_loop(batch, check_draws, probability_loop):
    """P(p | a) = sum_n P(n | a) P(p | a, n), with p of a third class."""
    embeddings, labels = batch
    rows = range(len(labels))

    def third(i, n):
        return [j for j in rows if labels[j] not in (labels[i], labels[n])]

    negative = probability_loop(embeddings, lambda i: [j for j in rows if labels[j] != labels[i]])
    uniformly, by_distance = torch.zeros(2, len(labels), len(labels)).unbind()
    for n in rows:
        conditional = probability_loop(embeddings, lambda i, n=n: third(i, n))
        for i in rows:
            by_distance[i] += negative[i, n] * conditional[i]
            for p in third(i, n):
                uniformly[i, p] += negative[i, n] / len(third(i, n))
    for name, expected in ((NEG, uniformly), (FULL, by_distance)):
        check_draws(miner(name), embeddings, labels, positives=expected)
    assert (uniformly - by_distance).abs().max() > 0.15  # the two can be told apart here


def test_members_come_from_three_classes(batch):
    embeddings, labels = batch
    for name in (NEG, FULL):
        for _ in range(50):
            a, p, n, valid = miner(name)(embeddings, labels)
            assert valid.all()
            a, p, n = labels[a], labels[p], labels[n]
            assert ((a != p) & (a != n) & (p != n)).all()


def test_two_classes_have_no_third(batch):
    embeddings, _ = batch
    for name in (NEG, FULL):
        assert not miner(name)(embeddings, torch.arange(12) // 6).valid.any()


def test_flags(make_opt):
    opt = make_opt("--miner_distance_lower_cutoff", 0.7)
    for name, by_distance in ((NEG, False), (FULL, True)):
        built = batchminer.select(name, opt)
        assert built.name == name and built.positives_by_distance is by_distance
        assert built.lower_cutoff == 0.7
