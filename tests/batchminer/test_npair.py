import torch

from batchminer import npair


def test_draws_agree_with_a_loop(batch):
    embeddings, labels = batch
    seen = torch.zeros(12, 12)
    for _ in range(2000):
        anchors, positives, negatives, valid = npair.Miner()(embeddings, labels)
        seen[anchors[valid], positives[valid]] += 1 / 2000
    assert anchors.equal(torch.arange(12)) and valid.tolist() == [False] + [True] * 11
    for i in range(12):
        members = [j for j in range(12) if labels[j] == labels[i] and j != i]
        for j in range(12):
            assert negatives[i, j] == (labels[i] != labels[j])
            assert abs(float(seen[i, j]) - (1 / len(members) if j in members else 0)) < 0.05
