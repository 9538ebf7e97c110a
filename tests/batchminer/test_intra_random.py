import torch

from batchminer import intra_random


def test_classes_are_uniform_whatever_their_size_and_members_are_drawn_with_replacement(batch):
    embeddings, labels = batch
    labels = labels.clone()
    labels[0] = 0                                     # classes of 3, 3, 4 and 2
    drawn = torch.cat([torch.stack(intra_random.Miner()(embeddings, labels))
                       for _ in range(2000)], 1)
    a, p, n, valid = drawn
    assert valid.all()
    assert (labels[a] == labels[p]).all() and (labels[a] == labels[n]).all()
    for label in labels.unique():
        own = drawn[:3, labels[a] == label]
        assert abs(own.shape[1] / drawn.shape[1] - 0.25) < 0.02
        members = int((labels == label).sum())
        cells = torch.unique(own, dim=1, return_counts=True)[1] / own.shape[1]
        assert len(cells) == members**3               # every (a, p, n), also (a, a, a)
        assert (cells - members**-3).abs().max() < 0.03


def test_as_many_triplets_as_samples(batch):
    assert all(len(rows) == 12 for rows in intra_random.Miner()(*batch))


def test_a_class_of_one_image_is_not_valid(batch):
    embeddings, labels = batch
    for _ in range(50):
        a, _, _, valid = intra_random.Miner()(embeddings, labels)
        assert valid.equal(a != 0)
