import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.softmax import Criterion


def test_agrees_with_a_loop(batch, agree):
    """Class weights have unit length, embeddings the length that they come with."""
    def oracle(x, weights):
        total = 0
        for row, label in zip(x, batch.labels, strict=True):
            logits = torch.stack([row @ (w / w.norm()) / 0.05 for w in weights])
            total = total + logits.logsumexp(0) - logits[label]
        return total / len(x)

    assert agree(Criterion(5, 6, temperature=0.05, lr=1), oracle, batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(batch, agree):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    criterion = Criterion(5, 6, temperature=0.05, lr=1)
    library = losses.NormalizedSoftmaxLoss(num_classes=5, embedding_size=6, temperature=0.05)
    with torch.no_grad():
        library.W.copy_(criterion.class_weights.T)
    x, y = (batch.unit.clone().requires_grad_() for _ in range(2))
    loss, expected = criterion(x, batch.labels), library(y, batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(criterion.class_weights.grad, library.W.grad.T, rtol=1e-3, atol=1e-5)


def test_start_values_and_rate(make_opt):
    opt = make_opt("--loss", "softmax", "--embed_dim", 16, "--loss_softmax_lr", 0.3)
    criterion = criteria.select("softmax", opt, n_classes=500)
    assert criterion.lr == 0.3 and criterion.class_weights.shape == (500, 16)
    assert 0.24 < criterion.class_weights.max() <= 0.25
    assert -0.24 > criterion.class_weights.min() >= -0.25


def test_one_class_and_equal_embeddings_stay_finite():
    criterion = Criterion(1, 6, temperature=0.05, lr=1)
    x = F.normalize(torch.ones(2, 6), dim=1).requires_grad_()
    loss = criterion(x, torch.zeros(2, dtype=torch.long))
    loss.backward()
    assert loss == 0 and (x.grad == 0).all()
