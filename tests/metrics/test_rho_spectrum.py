"""The spectral decay of the features."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import metrics
from utilities.errors import UserError


def measure(m, features):
    name = f"rho_spectrum@{m}"
    return metrics.compute([name], features, torch.zeros(len(features)))[name]


def naive(features, m):
    values = np.linalg.svd(features.double().numpy(), compute_uv=False)[:features.shape[1] - 1]
    values = values[max(0, abs(m) - 1):]
    spectrum, uniform = values / values.sum(), np.full(len(values), 1 / len(values))
    return entropy(spectrum, uniform) if m < 0 else entropy(uniform, spectrum)


@pytest.mark.parametrize("shape", [(40, 6), (5, 9)])
@pytest.mark.parametrize("m", [1, 2, 4, -1, -3])
def test_is_the_divergence_from_the_uniform_spectrum(m, shape, monkeypatch):
    monkeypatch.setattr("metrics.rho_spectrum.ROWS", 7)
    features = torch.randn(shape)
    assert measure(m, features) == pytest.approx(naive(features, m), rel=1e-6)


def test_0_gives_the_spectrum_itself():
    spectrum = measure(0, torch.diag(torch.tensor([1.0, 6, 3, 2])))
    np.testing.assert_allclose(spectrum, np.array([6, 3, 2]) / 11)
    assert isinstance(spectrum, np.ndarray)


def test_a_collapsed_or_zero_spectrum_stays_finite():
    for features in (torch.ones(10, 4), torch.zeros(10, 4)):
        for m in (-2, -1, 0, 1, 2):
            assert np.isfinite(measure(m, features)).all()


@pytest.mark.parametrize("m, shape", [(4, (9, 4)), (-20, (9, 4)), (1, (9, 1)), (4, (3, 9))])
def test_leaving_every_singular_value_out_is_refused(m, shape):
    with pytest.raises(UserError, match="leaves no singular value"):
        measure(m, torch.randn(shape))
