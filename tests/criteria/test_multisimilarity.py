import pytest
import torch
import torch.nn.functional as F

from criteria.multisimilarity import Criterion

DEFAULTS = {"pos_weight": 2, "neg_weight": 40, "margin": 0.1, "threshold": 0.5}


def oracle(labels, *, pos_weight, neg_weight, margin, threshold):
    def loss(x):
        terms = []
        for i in range(len(x)):
            s = x @ x[i]
            positives = [j for j in range(len(x)) if labels[j] == labels[i] and j != i]
            negatives = [j for j in range(len(x)) if labels[j] != labels[i]]
            if not positives or not negatives:
                continue
            hard_n = [j for j in negatives if s[j] + margin > min(s[k] for k in positives)]
            hard_p = [j for j in positives if s[j] - margin < max(s[k] for k in negatives)]
            if hard_n and hard_p:
                pull = sum(torch.exp(-pos_weight * (s[j] - threshold)) for j in hard_p)
                push = sum(torch.exp(neg_weight * (s[j] - threshold)) for j in hard_n)
                terms.append(torch.log(1 + pull) / pos_weight + torch.log(1 + push) / neg_weight)
        return sum(terms) / len(terms)

    return loss


def test_agrees_with_a_loop(batch, agree):
    """Some anchors keep pairs, some do not: the mean runs over those that do."""
    labels = torch.arange(16) // 4
    x = F.normalize(batch.raw + 3 * torch.eye(4, 6)[labels] * (labels % 2)[:, None], dim=1)
    kept = Criterion(**DEFAULTS).select_pairs(x @ x.T, labels)
    assert 0 < (kept[0].any(1) & kept[1].any(1)).sum() < 16
    assert agree(Criterion(**DEFAULTS), oracle(labels, **DEFAULTS), x, labels) > 0


def test_agrees_with_pytorch_metric_learning(batch):
    """With its own miner, where every anchor keeps pairs."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import losses, miners

    labels = torch.arange(16) // 4
    kept = Criterion(**DEFAULTS).select_pairs(batch.unit @ batch.unit.T, labels)
    assert (kept[0].any(1) & kept[1].any(1)).all()
    expected = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)(
        batch.unit, labels, miners.MultiSimilarityMiner(epsilon=0.1)(batch.unit, labels))
    assert Criterion(**DEFAULTS)(batch.unit, labels).item() == pytest.approx(expected.item(),
                                                                             rel=1e-5)


def test_is_zero_where_no_anchor_keeps_pairs():
    """Classes farther apart than the margin."""
    x = torch.eye(4)[torch.arange(8) // 2].requires_grad_()
    loss = Criterion(**DEFAULTS)(x, torch.arange(8) // 2)
    loss.backward()
    assert loss == 0 and not x.grad.any()
