"""The golden values, through `select` with given inputs and through `compute`."""

import json

import numpy as np
import pytest
import torch

import metrics
from tests.conftest import GOLDEN

CASES = json.loads((GOLDEN / "metrics.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("metrics")[0]


def features_of(arrays, case):
    return arrays["unit_features" if case.startswith("unit.") else "features"]


@pytest.mark.parametrize("case", CASES)
def test_a_selected_metric_gives_the_golden_value(case, arrays):
    kind, name = case.split(".", 1)
    features, labels = features_of(arrays, case), arrays["labels"]
    distances = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf)
    given = {"features": features, "target_labels": labels,
             "k_closest_classes": labels[distances.topk(100, largest=False).indices],
             "centroids": arrays[f"{kind}.centroids"],
             "computed_cluster_labels": arrays[f"{kind}.cluster_labels"]}
    metric = metrics.select(name)
    value = metric(**{need: given[need] for need in metric.requires})
    np.testing.assert_allclose(value, CASES[case], rtol=1e-4)


@pytest.mark.parametrize("kind", ["raw", "unit"])
def test_compute_gives_the_golden_values_all_at_once(kind, arrays):
    # The golden clustering is not the one k-means finds here: nmi and f1 come from given ones.
    cases = [case for case in CASES if case.startswith(kind) and case[-3:] != "nmi"
             and case[-2:] != "f1"]
    names = [case.split(".", 1)[1] for case in cases]
    values = metrics.compute(names, features_of(arrays, kind + "."), arrays["labels"])
    assert list(values) == names
    for case, name in zip(cases, names, strict=True):
        np.testing.assert_allclose(values[name], CASES[case], rtol=1e-4, err_msg=case)
