import pytest
import torch
import torch.nn.functional as F

from batchminer import Triplets
from criteria import quadruplet
from criteria.quadruplet import Criterion, draw_fourth


def test_agrees_with_a_loop(batch, fixed, agree, monkeypatch):
    fourth, exists = torch.randint(0, 16, (16,)), torch.rand(16) < 0.5
    monkeypatch.setattr(quadruplet, "draw_fourth", lambda *_: (fourth, exists))

    def distance(x, y):
        return ((x - y).square().sum() + 1e-8).sqrt()

    def oracle(x):
        first, second = [], []
        for t, (a, p, n, valid) in enumerate(zip(*batch.triplets, strict=True)):
            if valid:
                first.append(F.relu(distance(x[a], x[p]) - distance(x[a], x[n]) + 0.2))
            if valid and exists[t]:
                second.append(F.relu(distance(x[a], x[p]) - distance(x[n], x[fourth[t]]) + 0.4))
        return sum(first) / len(first) + sum(second) / len(second)

    criterion = Criterion(fixed(batch.triplets), alpha_1=0.2, alpha_2=0.4)
    assert agree(criterion, oracle, batch.unit, batch.labels) > 0


def test_the_fourth_is_of_a_third_class_and_uniform():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    anchors, negatives = torch.zeros(6000).long(), torch.full((6000,), 2)
    fourth, exists = draw_fourth(labels, anchors, negatives)
    counts = torch.bincount(fourth, minlength=7)
    assert exists.all() and not counts[:4].any()
    assert (counts[4:] - 2000).abs().max() < 5 * 2000**0.5


def test_two_classes_leave_only_the_triplet_term(fixed):
    """Where there is no third class, the second mean has nothing to run over."""
    rows = torch.arange(4)
    miner = fixed(Triplets(rows, rows ^ 1, rows ^ 2, torch.ones(4, dtype=bool)))
    x = torch.randn(4, 3, requires_grad=True)
    loss = Criterion(miner, alpha_1=0.2, alpha_2=100.0)(x, torch.tensor([0, 0, 1, 1]))
    gap = (x - x[rows ^ 1]).norm(dim=1) - (x - x[rows ^ 2]).norm(dim=1)
    assert loss.item() == pytest.approx(F.relu(gap + 0.2).mean().item(), rel=1e-4)


def test_margins_are_those_of_the_flags_that_are_read(make_opt, fixed, batch):
    """--loss_quadruplet_alpha1/2 were never read; --loss_quadruplet_margin_alpha_1/_2 are."""
    opt = make_opt("--loss", "quadruplet", "--loss_quadruplet_margin_alpha_1", 0.5,
                   "--loss_quadruplet_margin_alpha_2", 0.1)
    criterion = Criterion.from_opt(opt, n_classes=5, batchminer=fixed(batch.triplets))
    assert (criterion.alpha_1, criterion.alpha_2) == (0.5, 0.1)
