"""Ranks of the relevant images."""

import pytest
import torch

from metrics import neighbours, ranking


@pytest.mark.parametrize("few", [0, 100], ids=["by sorting", "by counting"])
@pytest.mark.parametrize("count", [ranking._reached, ranking._reached_on_cpu])
def test_values_that_reach_a_threshold_are_counted(count, few, monkeypatch):
    monkeypatch.setattr(ranking, "FEW", few)
    values = torch.randint(-4, 5, (20, 50)).float()
    thresholds = torch.randint(-5, 6, (20, 7)).float()
    values[3, :5] = -torch.inf
    thresholds[4, 2:] = -torch.inf
    expected = (values[:, None] >= thresholds[..., None]).sum(2)
    assert torch.equal(count(values, thresholds), expected)


def test_hits_become_ranks():
    hits = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    inf = torch.inf
    assert ranking.from_hits(hits).tolist() == [[2, 3], [inf, inf], [1, 4]]
    assert ranking.from_hits(hits[:, :0]).tolist() == [[inf]] * 3


@pytest.mark.parametrize("own_gallery", [False, True])
def test_whole_rankings_put_every_relevant_image_in_its_place(own_gallery, monkeypatch):
    monkeypatch.setitem(neighbours.BLOCK_BYTES, "cpu", 2000)
    queries, labels = torch.randn(40, 5), torch.randint(0, 6, (40,))
    gallery, gallery_labels = torch.randn(30, 5), torch.randint(0, 5, (30,))  # without class 5
    if own_gallery:
        gallery = gallery_labels = None
    others = queries if own_gallery else gallery
    classes = ranking.Classes(labels, gallery_labels)
    seen = []
    for rows, ranks in ranking.in_gallery(queries, gallery, classes):
        for row, found in zip(rows.tolist(), ranks, strict=True):
            order = (others - queries[row]).square().sum(1).argsort().tolist()
            if own_gallery:
                order.remove(row)
            among = labels if own_gallery else gallery_labels
            places = (among[order] == labels[row]).nonzero().flatten() + 1
            assert found[found < torch.inf].tolist() == places.tolist()
            seen.append(row)
    assert sorted(seen) == list(range(40))


def test_what_is_equally_near_and_not_relevant_counts_as_nearer():
    labels = torch.arange(20) // 2
    classes = ranking.Classes(labels, None)
    for _, ranks in ranking.in_gallery(torch.ones(20, 3), None, classes):
        assert (ranks == 19).all()
