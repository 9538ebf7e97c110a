import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.oproxy import Criterion


def build(mode="anchor", euclidean=False, n_classes=7):
    return Criterion(n_classes, 6, mode=mode, euclidean=euclidean, pos_alpha=32, neg_alpha=32,
                     pos_delta=0.1, neg_delta=-0.1, lr=1)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("mode", ["anchor", "nca"])
def test_agrees_with_a_loop(mode, euclidean, batch, agree):
    """Seven proxies, two of which no sample of the batch belongs to."""
    labels = batch.labels.tolist()

    def oracle(x, proxies):
        x, proxies = [r / r.norm() for r in x], [p / p.norm() for p in proxies]
        alpha = -32 if euclidean else 32

        def closeness(i, c):
            return (x[i] - proxies[c]).norm() if euclidean else x[i] @ proxies[c]

        pull = {(i, k): -alpha * (closeness(i, labels[k]) - 0.1)
                for i in range(16) for k in range(16) if labels[i] == labels[k]}
        push = {(i, c): alpha * (closeness(i, c) + 0.1)
                for i in range(16) for c in range(7) if labels[i] != c}
        loss = 0
        for terms in (pull, push):
            sums = {}
            for (row, column), w in terms.items():
                key = column if mode == "anchor" else row
                sums[key] = sums.get(key, 0) + torch.exp(w)
            loss = loss + sum(torch.log(1 + s) for s in sums.values()) / len(sums)
        return loss

    assert agree(build(mode, euclidean), oracle, batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning_on_a_batch_balanced_over_classes(batch):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    criterion = build()
    library = losses.ProxyAnchorLoss(7, 6, margin=0.1, alpha=32)
    with torch.no_grad():
        library.proxies.copy_(criterion.proxies)
    labels = torch.arange(16) // 4
    x, y = (batch.unit.clone().requires_grad_() for _ in range(2))
    loss, expected = criterion(x, labels), library(y, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(criterion.proxies.grad, library.proxies.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("mode", ["anchor", "nca"])
def test_a_column_with_nothing_to_sum_is_left_out(mode, euclidean):
    """All samples of class 0: its proxy pushes nobody away, and counts in no mean."""
    criterion, labels = build(mode, euclidean, n_classes=3), torch.zeros(4, dtype=torch.long)
    x = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()
    loss = criterion(x, labels)
    closeness = (torch.cdist(x, F.normalize(criterion.proxies, dim=1)) if euclidean
                 else x @ F.normalize(criterion.proxies, dim=1).T)
    alpha = -32 if euclidean else 32
    dim = 0 if mode == "anchor" else 1
    pull = F.softplus((-alpha * (closeness[:, [0] * 4] - 0.1)).logsumexp(dim)).mean()
    push = F.softplus((alpha * (closeness[:, 1:] + 0.1)).logsumexp(dim)).mean()
    assert loss.item() == pytest.approx((pull + push).item(), rel=1e-4)
    loss.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("mode", ["anchor", "nca"])
@pytest.mark.parametrize("direction", [1, -1, 0])
@pytest.mark.parametrize("n_classes", [1, 5])
def test_embeddings_on_opposite_to_or_without_their_proxy(mode, euclidean, direction, n_classes):
    criterion = build(mode, euclidean, n_classes)
    x = (direction * F.normalize(criterion.proxies.detach(), dim=1)).requires_grad_()
    loss = criterion(x, torch.arange(n_classes))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and criterion.proxies.grad.isfinite().all()


def test_start_values_and_rate(make_opt):
    opt = make_opt("--loss", "oproxy", "--embed_dim", 64, "--lr", 1e-4,
                   "--loss_oproxy_lrmulti", 30)
    criterion = criteria.select("oproxy", opt, n_classes=500)
    assert criterion.lr == pytest.approx(3e-3)
    assert criterion.proxies.std().item() == pytest.approx(1 / 8, rel=0.02)
