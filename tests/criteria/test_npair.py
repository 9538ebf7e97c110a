import pytest
import torch

from criteria.npair import Criterion


def oracle(batch, l2=0.005, divisor=1):
    def loss(x):
        x = x / divisor
        terms = []
        for a, p, negatives, valid in zip(*batch.pairs, strict=True):
            if valid:
                terms.append(torch.log(1 + sum(torch.exp(x[a] @ x[n] - x[a] @ x[p])
                                               for n in range(len(x)) if negatives[n])))
        return sum(terms) / len(terms) + l2 * sum(row.norm() for row in x) / len(x)

    return loss


@pytest.mark.parametrize("divisor", [1, 4])
def test_agrees_with_a_loop(batch, fixed, agree, divisor):
    criterion = Criterion(fixed(batch.pairs), l2=0.005, divisor=divisor)
    assert agree(criterion, oracle(batch, divisor=divisor), batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(fixed):
    """One pair a class; each anchor's negatives are the positives of the other classes."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, losses

    from batchminer import Pairs

    x, labels = torch.randn(10, 6), torch.arange(10) // 2
    anchors = torch.arange(0, 10, 2)
    is_positive = torch.arange(10) % 2 == 1
    negatives = is_positive & (labels[anchors][:, None] != labels)
    pairs = Pairs(anchors, anchors + 1, negatives, torch.ones(5, dtype=bool))
    library = losses.NPairsLoss(distance=distances.DotProductSimilarity(
        normalize_embeddings=False))
    expected = library(x, labels, (anchors, anchors + 1, anchors, anchors + 1))
    loss = Criterion(fixed(pairs), l2=0)(x, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_large_embeddings_do_not_overflow(batch, fixed):
    x = (100 * batch.raw).requires_grad_()
    loss = Criterion(fixed(batch.pairs), l2=0.005)(x, batch.labels)
    loss.backward()
    assert loss.isfinite() and loss > 100 and x.grad.isfinite().all()


@pytest.mark.parametrize("arch, divisor", [("bninception_normalize", 4), ("bninception", 4),
                                           ("resnet50_frozen_normalize", 1)])
def test_embeddings_of_bninception_are_divided_by_four(make_opt, fixed, batch, arch, divisor):
    opt = make_opt("--loss", "npair", "--arch", arch, "--loss_npair_l2", 0.1)
    criterion = Criterion.from_opt(opt, n_classes=5, batchminer=fixed(batch.pairs))
    assert (criterion.divisor, criterion.l2) == (divisor, 0.1)
