import math

import pytest
import torch

from criteria.angular import Criterion


def test_agrees_with_a_loop(batch, fixed, agree):
    t = math.tan(math.radians(36)) ** 2

    def oracle(x):
        u = x / x.norm(dim=1, keepdim=True)
        angles, pairs = [], []
        for a, p, negatives, valid in zip(*batch.pairs, strict=True):
            if not valid:
                continue
            rows = [n for n in range(len(x)) if negatives[n]]
            angles.append(torch.log(1 + sum(torch.exp(
                4 * t * (u[a] + u[p]) @ u[n] - 2 * (1 + t) * u[a] @ u[p]) for n in rows)))
            pairs.append(torch.log(1 + sum(torch.exp(x[a] @ x[n] - x[a] @ x[p]) for n in rows)))
        length = sum(row.norm() for row in x) / len(x)
        return 2 * sum(angles) / len(angles) + sum(pairs) / len(pairs) + 0.005 * length

    criterion = Criterion(fixed(batch.pairs), alpha=36, weight=2, l2=0.005)
    assert agree(criterion, oracle, batch.raw, batch.labels) > 0


def test_options_reach_the_criterion(make_opt, fixed, batch):
    opt = make_opt("--loss", "angular", "--loss_angular_alpha", 45,
                   "--loss_angular_npair_ang_weight", 3, "--loss_angular_npair_l2", 0.1)
    criterion = Criterion.from_opt(opt, n_classes=5, batchminer=fixed(batch.pairs))
    assert (criterion.weight, criterion.l2) == (3, 0.1)
    assert criterion.tan_squared == pytest.approx(1)
