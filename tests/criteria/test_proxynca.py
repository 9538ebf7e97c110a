import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.proxynca import Criterion


def test_leaves_the_positive_proxy_out_of_the_denominator(batch, agree):
    def oracle(x, proxies):
        total = 0
        for row, label in zip(x, batch.labels, strict=True):
            d2 = [((3 * row / row.norm() - 3 * p / p.norm()) ** 2).sum() for p in proxies]
            others = torch.stack([-d for c, d in enumerate(d2) if c != label])
            total = total + d2[label] + others.logsumexp(0)
        return total / len(x)

    agree(Criterion(5, 6, lr=1), oracle, batch.raw, batch.labels)


def test_a_single_class_has_nothing_to_learn():
    criterion = Criterion(1, 6, lr=1)
    x = torch.randn(2, 6, requires_grad=True)
    loss = criterion(x, torch.zeros(2, dtype=torch.long))
    loss.backward()
    assert loss == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("direction", [1, -1, 0])
def test_embeddings_on_opposite_to_or_without_their_proxy(direction):
    criterion = Criterion(5, 6, lr=1)
    x = (direction * F.normalize(criterion.proxies.detach(), dim=1)).requires_grad_()
    loss = criterion(x, torch.arange(5))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and criterion.proxies.grad.isfinite().all()


def test_start_values_and_rate(make_opt):
    opt = make_opt("--loss", "proxynca", "--embed_dim", 64, "--loss_proxynca_lr", 0.3)
    criterion = criteria.select("proxynca", opt, n_classes=500)
    assert criterion.lr == 0.3
    assert criterion.proxies.std().item() == pytest.approx(1 / 8, rel=0.02)
