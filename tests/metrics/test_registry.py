"""The table of metrics and the grammar of their names."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metrics
from utilities.errors import UserError

NAMES = [family + {"dists": "@intra", "rho_spectrum": "@1"}.get(
    family, "@2" if family in metrics.ARGUMENTS else "") for family in metrics.METRICS]


@pytest.mark.parametrize("name", [*NAMES, "dists@inter", "dists@intra_over_inter",
                                  "rho_spectrum@0", "rho_spectrum@-1", "e_recall@1000"])
def test_every_name_is_selected_and_keeps_its_name(name):
    metric = metrics.select(name)
    assert metric.name == name
    assert metric.normalized == name.startswith("c_")
    assert metric.takes in ("ranks", "assignment", "centroids", "features")
    assert metrics.needs_clusters(name) == (metric.takes in ("assignment", "centroids"))


def test_every_metric_measures_small_and_large_classes():
    features, labels = torch.randn(60, 5), torch.cat([torch.arange(40) % 8, torch.full((20,), 9)])
    values = metrics.compute(NAMES, features, labels)
    assert list(values) == NAMES and all(map(math.isfinite, values.values()))
    assert all(0 <= values[name] <= 1 for name in NAMES if metrics.is_score(name))


def test_the_names_of_the_original_are_there():
    assert set(metrics.METRICS) >= {
        "e_recall", "c_recall", "a_recall", "nmi", "f1", "c_nmi", "c_f1", "mAP", "mAP_c",
        "mAP_1000", "mAP_lim", "c_mAP", "c_mAP_c", "c_mAP_1000", "c_mAP_lim", "mAP_r", "c_mAP_r",
        "r_precision", "c_r_precision", "dists", "rho_spectrum"}


@pytest.mark.parametrize("name, parsed", [
    ("e_recall@12", ("e_recall", 12)), ("nmi", ("nmi", None)), ("mAP_1000", ("mAP_1000", None)),
    ("dists@intra_over_inter", ("dists", "intra_over_inter")),
    ("rho_spectrum@-3", ("rho_spectrum", -3)), ("rho_spectrum@0", ("rho_spectrum", 0))])
def test_names_are_parsed(name, parsed):
    assert metrics.parse(name) == parsed


@pytest.mark.parametrize("name", [
    "e_recall", "e_recall@", "e_recall@0", "e_recall@-1", "e_recall@1.5", "e_recall@x",
    "e_recall@٣", "e_recall@01", "e_recall@1\n", "nmi@1", "nmi@", "dists", "dists@mean",
    "rho_spectrum@", "rho_spectrum@-0", "rho_spectrum@1.0", "recall@1", "map_c", "", "@1"])
def test_wrong_names_are_refused_in_one_line_with_their_flag(name):
    with pytest.raises(UserError) as error:
        metrics.parse(name, "--storage_metrics")
    assert str(error.value).startswith("--storage_metrics: ")
    assert "accepted: " in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_whole_spectrum_is_an_array():
    assert metrics.is_array("rho_spectrum@0")
    assert not any(metrics.is_array(name) for name in [*NAMES, "rho_spectrum@-1"])


def test_of_scores_larger_is_better():
    assert {name.partition("@")[0] for name in NAMES if not metrics.is_score(name)} == {
        "dists", "rho_spectrum"}
    assert not metrics.is_score("rho_spectrum@0") and not metrics.is_score("dists@inter")


def test_names_are_parsed_without_torch():
    code = ("import sys, metrics; metrics.parse('e_recall@1'); metrics.needs_clusters('nmi');"
            "sys.exit('torch' in sys.modules or 'faiss' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code],
                          cwd=Path(metrics.__file__).parents[1]).returncode == 0
