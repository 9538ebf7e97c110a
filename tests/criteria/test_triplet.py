import pytest
import torch.nn.functional as F

from criteria.triplet import Criterion


def test_agrees_with_a_loop(batch, fixed, agree):
    def oracle(x):
        terms = [F.relu((x[a] - x[p]).square().sum() - (x[a] - x[n]).square().sum() + 0.2)
                 for a, p, n, valid in zip(*batch.triplets, strict=True) if valid]
        return sum(terms) / len(terms)

    assert agree(Criterion(fixed(batch.triplets), margin=0.2), oracle, batch.unit,
                 batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(batch, fixed):
    """Squared distances and the mean over all triplets."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, losses, reducers

    library = losses.TripletMarginLoss(
        margin=0.2, distance=distances.LpDistance(power=2, normalize_embeddings=False),
        reducer=reducers.MeanReducer())
    a, p, n, valid = batch.triplets
    expected = library(batch.raw, batch.labels, (a[valid], p[valid], n[valid]))
    loss = Criterion(fixed(batch.triplets), margin=0.2)(batch.raw, batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
