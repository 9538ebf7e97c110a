import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.softtriplet import Criterion


def build(original=False, n_centroids=3, **options):
    options = {"margin": 0.01, "gamma": 0.1, "scale": 20, "regularisation": 0.2, **options}
    return Criterion(5, 6, n_centroids=n_centroids, original=original, lr=1, **options)


def cross_entropy(scores, labels):
    """20 (S - 0.01 [own class]) against the labels."""
    total = 0
    for row, label in zip(scores, labels, strict=True):
        logits = torch.stack([20 * (s - 0.01 * (c == label)) for c, s in enumerate(row)])
        total = total + logits.logsumexp(0) - logits[label]
    return total / len(scores)


def merging(groups):
    """groups: C lists of K centroids."""
    n_classes, n_centroids = len(groups), len(groups[0])
    total = sum(torch.sqrt(2.00001 - 2 * group[k] @ group[m])
                for group in groups for k in range(n_centroids) for m in range(k + 1, n_centroids))
    return 0.2 * total / (n_classes * n_centroids * (n_centroids - 1))


def test_the_papers_form(batch, agree):
    def oracle(x, centroids):
        groups = [[centroids[:, 3 * c + k] / centroids[:, 3 * c + k].norm() for k in range(3)]
                  for c in range(5)]
        scores = []
        for row in x:
            row, scores_of_row = row / row.norm(), []
            for group in groups:
                s = torch.stack([row @ w for w in group])
                scores_of_row.append((torch.softmax(s / 0.1, 0) * s).sum())
            scores.append(scores_of_row)
        return cross_entropy(scores, batch.labels) + merging(groups)

    assert agree(build(), oracle, batch.raw, batch.labels) > 0


def test_the_originals_form_normalises_and_weighs_over_the_wrong_axes(batch, agree):
    def oracle(x, centroids):
        scaled = torch.stack([row / row.norm() for row in centroids])  # rows are dimensions
        groups = [[scaled[:, 3 * c + k] for k in range(3)] for c in range(5)]
        scores = []
        for row in x:
            s = torch.stack([torch.stack([row @ w for w in group]) for group in groups])
            weights = torch.stack([torch.softmax(0.1 * s[:, k], 0) for k in range(3)], 1)
            scores.append([(weights[c] * s[c]).sum() for c in range(5)])
        return cross_entropy(scores, batch.labels) + merging(groups)

    assert agree(build(original=True), oracle, batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(batch):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    criterion = build(regularisation=0)
    library = losses.SoftTripleLoss(5, 6, centers_per_class=3, la=20, gamma=0.1, margin=0.01)
    with torch.no_grad():
        library.fc.copy_(criterion.centroids)
    loss, expected = criterion(batch.unit, batch.labels), library(batch.unit, batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("n_centroids", [1, 3])
def test_equal_centroids_and_embeddings_stay_finite(original, n_centroids):
    criterion = build(original, n_centroids)
    torch.nn.init.ones_(criterion.centroids)
    x = F.normalize(torch.ones(2, 6), dim=1).requires_grad_()
    loss = criterion(x, torch.tensor([0, 3]))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and criterion.centroids.grad.isfinite().all()


def test_centroids_longer_than_1_of_the_originals_form_stay_finite():
    """One class of two equal centroids: each is sqrt(D / 2) long."""
    criterion = Criterion(1, 8, n_centroids=2, margin=0.01, gamma=0.1, scale=20,
                          regularisation=0.2, original=True, lr=1)
    torch.nn.init.ones_(criterion.centroids)
    loss = criterion(F.normalize(torch.randn(4, 8), dim=1), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.isfinite() and criterion.centroids.grad.isfinite().all()


def test_the_distance_of_merging_has_a_gradient_where_it_would_be_zero():
    """Two equal centroids of squared length 1.000005: 2.00001 - 2 w.w is 0."""
    group = torch.tensor([[1.0, 1], [5e-6**0.5] * 2]).requires_grad_()
    criterion = Criterion(1, 2, n_centroids=2, margin=0.01, gamma=0.1, scale=20,
                          regularisation=0.2, original=True, lr=1)
    penalty = criterion.merging(group)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.2 * 1e-5**0.5 / 2) and group.grad.isfinite().all()


def test_start_values_rate_and_the_default_form(make_opt):
    opt = make_opt("--loss", "softtriplet", "--embed_dim", 16, "--loss_softtriplet_lr", 0.3)
    criterion = criteria.select("softtriplet", opt, n_classes=40)
    assert criterion.lr == 0.3 and not criterion.original
    assert criterion.centroids.shape == (16, 400)
    assert 0.049 < criterion.centroids.abs().max() <= 0.05
    opt = make_opt("--loss", "softtriplet", "--loss_softtriplet_original")
    assert criteria.select("softtriplet", opt, n_classes=5).original
