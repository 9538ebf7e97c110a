"""Ranks of the relevant images."""

import pytest
import torch

from metrics import neighbours, ranking


def test_hits_become_ranks():
    hits = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    inf = torch.inf
    assert ranking.from_hits(hits).tolist() == [[2, 3], [inf, inf], [1, 4]]
    assert ranking.from_hits(hits[:, :0]).tolist() == [[inf]] * 3


@pytest.mark.parametrize("own_gallery", [False, True])
def test_whole_rankings_put_every_relevant_image_in_its_place(own_gallery, monkeypatch):
    monkeypatch.setitem(neighbours.BLOCK_ENTRIES, "cpu", 500)
    queries, labels = torch.randn(40, 5), torch.randint(0, 6, (40,))
    gallery, gallery_labels = torch.randn(30, 5), torch.randint(0, 5, (30,))  # without class 5
    if own_gallery:
        gallery = gallery_labels = None
    others = queries if own_gallery else gallery
    classes = ranking.Classes.count(labels, gallery_labels)
    row = 0
    for block in ranking.in_gallery(queries, gallery, classes):
        for found in block.ranks:
            order = (others - queries[row]).square().sum(1).argsort().tolist()
            if own_gallery:
                order.remove(row)
            places = (classes.gallery[order] == labels[row]).nonzero().flatten() + 1
            assert found[found < torch.inf].tolist() == places.tolist()
            row += 1
    assert row == 40


def test_what_is_equally_near_and_not_relevant_counts_as_nearer():
    classes = ranking.Classes.count(torch.arange(20) // 2, None)
    for block in ranking.in_gallery(torch.ones(20, 3), None, classes):
        assert (block.ranks[:, 0] == 19).all()


def test_classes_count_what_the_gallery_has():
    among_themselves = ranking.Classes.count(torch.tensor([7, 7, 9]), None)
    assert among_themselves.size.tolist() == [2, 2, 1]
    assert among_themselves.relevant.tolist() == [1, 1, 0]
    apart = ranking.Classes.count(torch.tensor([7, 8]), torch.tensor([7, 9, 7]))
    assert apart.size.tolist() == apart.relevant.tolist() == [2, 0]
