import pytest
import torch
import torch.nn.functional as F

from criteria.lifted import Criterion


def test_agrees_with_a_loop(batch, fixed, agree):
    positives, negatives, valid = batch.sets

    def oracle(x):
        terms = []
        for i in range(len(x)):
            if valid[i]:
                pull = sum(torch.exp((x[i] - y).norm()) for y in x[positives[i]])
                push = sum(torch.exp(1 - (x[i] - y).norm()) for y in x[negatives[i]])
                terms.append(F.relu(torch.log(pull) + torch.log(push)))
        return sum(terms) / len(terms) + 0.005 * sum(row.norm() for row in x) / len(x)

    criterion = Criterion(fixed(batch.sets), neg_margin=1, l2=0.005)
    assert agree(criterion, oracle, batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(batch, fixed):
    """Its rows without a positive count as zeros in the mean; here every row is an anchor."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, losses, reducers

    from batchminer import Sets

    labels = torch.arange(16) // 4
    same = labels[:, None] == labels
    sets = Sets(same & ~torch.eye(16, dtype=bool), ~same, torch.ones(16, dtype=bool))
    library = losses.GeneralizedLiftedStructureLoss(
        neg_margin=1, pos_margin=0, reducer=reducers.MeanReducer(),
        distance=distances.LpDistance(normalize_embeddings=False))
    loss = Criterion(fixed(sets), neg_margin=1, l2=0)(batch.raw, labels)
    assert loss.item() == pytest.approx(library(batch.raw, labels).item(), rel=1e-4)
