import torch

import batchminer
from batchminer import random_distance
from batchminer.distance import Miner as Distance


def test_mines_by_distance_with_the_labels_permuted(batch, monkeypatch):
    embeddings, labels = batch
    miner, seen = random_distance.Miner(lower_cutoff=0.5), []

    mine = Distance.__call__

    def record(self, given, permuted):
        seen.append(permuted)
        assert given.equal(embeddings)
        return mine(self, given, permuted)

    monkeypatch.setattr(Distance, "__call__", record)
    for _ in range(2000):
        a, p, n, valid = miner(embeddings, labels)
        assert (seen[-1][a] == seen[-1][p])[valid].all() and (seen[-1][a] != seen[-1][n]).all()
    assert all(permuted.sort()[0].equal(labels.sort()[0]) for permuted in seen)
    for label in labels.unique():  # every order alike: each row has each label equally often
        share = (torch.stack(seen) == label).float().mean(0)
        assert torch.allclose(share, (labels == label).float().mean(), atol=0.05)


def test_tuples_cross_true_classes(batch):
    embeddings, labels = batch
    a, p, _, valid = random_distance.Miner(lower_cutoff=0.5)(embeddings, labels)
    assert (labels[a] != labels[p])[valid].any()


def test_flags(make_opt):
    miner = batchminer.select("random_distance", make_opt("--miner_distance_lower_cutoff", 0.7))
    assert miner.name == "random_distance" and miner.lower_cutoff == 0.7
