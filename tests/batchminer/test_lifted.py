from batchminer import lifted


def test_sets_agree_with_a_loop(batch):
    embeddings, labels = batch
    positives, negatives, valid = lifted.Miner()(embeddings, labels)
    for i in range(12):
        for j in range(12):
            assert positives[i, j] == (labels[i] == labels[j] and i != j)
            assert negatives[i, j] == (labels[i] != labels[j])
    assert valid.tolist() == [False] + [True] * 11  # row 0 is the only one of its class
