"""The golden values, through `metrics.compute` and `metrics.knn`."""

import json

import numpy as np
import pytest

import metrics
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "metrics.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("metrics")[0]


def inputs(arrays, kind):
    """Features, labels and the golden clustering."""
    clusters = arrays[f"{kind}.centroids"], arrays[f"{kind}.cluster_labels"]
    return arrays["unit_features" if kind == "unit" else "features"], arrays["labels"], clusters


@pytest.mark.parametrize("case", CASES)
def test_a_metric_gives_the_golden_value(case, arrays):
    kind, name = case.split(".", 1)
    features, labels, clusters = inputs(arrays, kind)
    value = metrics.compute([name], features, labels, clusters=clusters)[name]
    np.testing.assert_allclose(value, CASES[case], rtol=1e-4)


@pytest.mark.parametrize("k", [None, 100, 1388])
@pytest.mark.parametrize("kind", ["raw", "unit"])
def test_all_metrics_at_once_give_the_golden_values(kind, k, arrays):
    cases = [case for case in CASES if case.startswith(kind)]
    names = [case.split(".", 1)[1] for case in cases]
    features, labels, clusters = inputs(arrays, kind)
    neighbours = k and metrics.knn(features, None, k)
    values = metrics.compute(names, features, labels, clusters=clusters, neighbours=neighbours)
    assert list(values) == names
    for case, name in zip(cases, names, strict=True):
        np.testing.assert_allclose(values[name], CASES[case], rtol=1e-4, err_msg=case)
