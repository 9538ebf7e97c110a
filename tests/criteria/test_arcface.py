import math

import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.arcface import Criterion


def paper(**options):
    return Criterion(5, 6, **{"margin": 0.5, "scale": 64, "original": False, "lr": 1, **options})


def cosines_of(x, weights):
    return [[row @ w / (row.norm() * w.norm()) for w in weights] for row in x]


def cross_entropy(rows, labels):
    return sum(torch.stack(row).logsumexp(0) - row[label]
               for row, label in zip(rows, labels, strict=True)) / len(rows)


def test_the_papers_margin_acts_on_the_angle_of_the_own_class(batch, agree):
    def oracle(x, weights):
        rows = cosines_of(x, weights)
        for row, label in zip(rows, batch.labels, strict=True):
            theta = torch.acos(row[label])
            row[label] = (torch.cos(theta + 0.5) if theta < math.pi - 0.5
                          else torch.cos(theta) - 0.5 * math.sin(0.5))
        return cross_entropy([[8 * c for c in row] for row in rows], batch.labels)

    assert agree(paper(scale=8), oracle, batch.raw, batch.labels) > 0


def test_agrees_with_pytorch_metric_learning(batch):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    criterion = paper()
    library = losses.ArcFaceLoss(5, 6, margin=math.degrees(0.5), scale=64)
    with torch.no_grad():
        library.W.copy_(criterion.class_weights.T)
    loss, expected = criterion(batch.unit, batch.labels), library(batch.unit, batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_originals_margin_moves_all_logits_of_a_row_and_so_has_no_effect(batch, agree):
    def oracle(x, weights):
        rows = []
        for row, label in zip(x, batch.labels, strict=True):
            cosines = [(row @ w / w.norm()).clamp(1e-10, 1 - 1e-10) for w in weights]
            theta = torch.acos(cosines[label].detach())
            shift = torch.cos(theta + 0.5) - torch.cos(theta)
            rows.append([64 * (c + shift) for c in cosines])
        return cross_entropy(rows, batch.labels)

    criterion = paper(original=True)
    value = agree(criterion, oracle, batch.raw, batch.labels)
    criterion.margin = 1.0
    assert criterion(batch.raw, batch.labels).item() == value


def test_the_margins_cosine_falls_from_0_to_pi():
    theta = torch.linspace(0, math.pi, 1001)
    with_margin = paper().add_margin(torch.cos(theta))
    assert (with_margin.diff() <= 0).all()
    below = theta < math.pi - 0.51
    expected = torch.cos(theta + 0.5)[below]
    torch.testing.assert_close(with_margin[below], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("direction", [1, -1, 0])
def test_embeddings_on_opposite_to_or_without_their_class_weight(original, direction):
    criterion = paper(original=original)
    labels = torch.arange(5)
    x = (direction * F.normalize(criterion.class_weights.detach(), dim=1)).requires_grad_()
    loss = criterion(x, labels)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    assert criterion.class_weights.grad.isfinite().all()


def test_start_values_rate_and_the_default_form(make_opt):
    opt = make_opt("--loss", "arcface", "--embed_dim", 16, "--loss_arcface_lr", 0.3)
    criterion = criteria.select("arcface", opt, n_classes=500)
    assert criterion.lr == 0.3 and not criterion.original
    assert (criterion.margin, criterion.scale) == (0.5, 64)
    assert 0.24 < criterion.class_weights.abs().max() <= 0.25
    opt = make_opt("--loss", "arcface", "--loss_arcface_original")
    assert criteria.select("arcface", opt, n_classes=5).original
