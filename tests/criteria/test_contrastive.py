import pytest
import torch.nn.functional as F

from criteria.contrastive import Criterion


@pytest.mark.parametrize("pos_margin, neg_margin", [(0.0, 1.0), (0.4, 1.3)])
def test_agrees_with_a_loop(batch, fixed, agree, pos_margin, neg_margin):
    def oracle(x):
        valid = [t[:3] for t in zip(*batch.triplets, strict=True) if t[3]]
        pulls = [F.relu((x[a] - x[p]).norm() - pos_margin) for a, p, _ in valid if a != p]
        pushes = [F.relu(neg_margin - (x[a] - x[n]).norm()) for a, _, n in valid if a != n]
        same = sum(neg_margin for a, _, n in valid if a == n)
        return (sum(pulls) + sum(pushes) + same) / len(valid)

    criterion = Criterion(fixed(batch.triplets), pos_margin=pos_margin, neg_margin=neg_margin)
    assert agree(criterion, oracle, batch.unit, batch.labels, tolerance=3e-4) > 0


def test_agrees_with_pytorch_metric_learning(batch, fixed):
    """Mean over all pairs, active or not."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import distances, losses, reducers

    library = losses.ContrastiveLoss(
        pos_margin=0.4, neg_margin=1.3, reducer=reducers.MeanReducer(),
        distance=distances.LpDistance(normalize_embeddings=False))
    a, p, n, valid = batch.triplets
    expected = library(batch.unit, batch.labels, (a[valid], p[valid], n[valid]))
    loss = Criterion(fixed(batch.triplets), pos_margin=0.4, neg_margin=1.3)(batch.unit,
                                                                            batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
