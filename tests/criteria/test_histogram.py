import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria.histogram import Criterion


def oracle(labels, nbins):
    def loss(x):
        width, mass, counts = 2 / (nbins - 1), torch.zeros(2, nbins, dtype=x.dtype), [0, 0]
        for i in range(len(x)):
            for j in range(i + 1, len(x)):
                kind = int(labels[i] != labels[j])
                counts[kind] += 1
                for r in range(nbins):
                    weight = 1 - (x[i] @ x[j] - (-1 + r * width)).abs() / width
                    mass = mass.index_put((torch.tensor(kind), torch.tensor(r)),
                                          weight.clamp(min=0), accumulate=True)
        h_pos, h_neg = mass[0] / counts[0], mass[1] / counts[1]
        return sum(h_neg[r] * h_pos[:r + 1].sum() for r in range(nbins))

    return loss


@pytest.mark.parametrize("nbins", [9, 12])
def test_agrees_with_a_loop(batch, agree, nbins):
    assert agree(Criterion(nbins=nbins), oracle(batch.labels, nbins), batch.unit,
                 batch.labels) > 0


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_agrees_with_pytorch_metric_learning(batch):
    """Its bins are our nodes less one, its pairs ours."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import losses

    expected = losses.HistogramLoss(n_bins=50)(batch.unit, batch.labels)
    loss = Criterion(nbins=51)(batch.unit, batch.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(nbins=st.integers(2, 130), seed=st.integers(0, 10))
def test_no_weight_is_lost_whatever_the_width(nbins, seed):
    """The original's histograms sum to one only for widths that are binary fractions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=1)
    both = Criterion(nbins=nbins).histograms(x @ x.T, torch.arange(12) // 3)
    assert both.sum(1).tolist() == pytest.approx([1, 1], rel=1e-5)


def test_sums_of_floats_are_matrix_products(batch):
    """Under deterministic algorithms a cumsum of floats is refused on CUDA by older torch."""
    x = batch.unit.requires_grad_()
    with torch.profiler.profile() as profile:
        Criterion(nbins=9)(x, batch.labels).backward()
    called = {event.name for event in profile.events()}
    assert "aten::mv" in called and "aten::cumsum" not in called


def test_separated_classes_cost_nothing_and_mixed_ones_one():
    x = torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    assert Criterion(nbins=51)(x, torch.tensor([0, 0, 1, 1])) == 0
    assert Criterion(nbins=51)(torch.ones(4, 1), torch.tensor([0, 0, 1, 1])) == 1
