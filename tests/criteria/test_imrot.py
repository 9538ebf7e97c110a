import pytest
import torch

import criteria
from criteria.imrot import Criterion


def test_golden(golden, make_opt):
    arrays, _ = golden("criteria")
    criterion = criteria.select("imrot", make_opt(), n_classes=12, feature_dim=32)
    with torch.no_grad():
        criterion.classifier.weight.copy_(arrays["imrot.weight"])
    loss = criterion(arrays["trunk"], arrays["imrot.labels"])
    assert loss.item() == pytest.approx(arrays["imrot.loss"].item(), rel=1e-4)


def test_agrees_with_a_loop(batch, agree):
    rotations = torch.arange(16) % 4

    def oracle(x, weight):
        logits = [torch.stack([row @ w for w in weight]) for row in x]
        return sum(row.logsumexp(0) - row[r]
                   for row, r in zip(logits, rotations, strict=True)) / len(x)

    assert agree(Criterion(6, lr=1), oracle, batch.raw, rotations) > 0


def test_learns_ten_times_as_fast_as_the_network_without_a_bias(make_opt):
    criterion = criteria.select("imrot", make_opt("--lr", 2e-4), n_classes=2, feature_dim=9)
    assert criterion.lr == pytest.approx(2e-3)
    assert [tuple(p.shape) for p in criterion.parameters()] == [(4, 9)]


def test_nothing_waits_for_the_device(batch, without_waiting):
    criterion, rotations = Criterion(6, lr=1), torch.arange(16) % 4
    with without_waiting:
        criterion(batch.raw.requires_grad_(), rotations).backward()
