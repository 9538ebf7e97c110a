"""Metrics of several runs, each alone and concatenated."""

import csv
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import architectures
import metrics
from evaluation import best, embed, ensemble
from tests import runs, trees
from tests.tools import call

EVALTYPE = "Combined_discriminative_shared-1-1"
ARGV = ("--arch", "squeezenet1_1_normalize", "--evaluation_metrics", "e_recall@1", "mAP_r",
        "--diva_features", "discriminative", "shared", "--evaltypes", "all", "shared")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of one dataset, with different images sizes."""
    tree = tmp_path_factory.mktemp("runs")
    return [runs.train(tree, *ARGV, "--seed", 1),
            runs.train(tree, *ARGV, "--seed", 2, "--crop_size", 30)]


def table(text: str) -> dict[str, list[float]]:
    """{name of a row: its numbers}, without the header."""
    rows = [line.rsplit(maxsplit=2) for line in text.splitlines()[1:]]
    return {name: [float(one), float(other)] for name, one, other in rows}


def test_separate_are_the_runs_numbers_and_concatenated_those_of_the_joined(folders, capsys):
    assert call(ensemble, *folders, "--kernels", 0) == 0
    rows = table(capsys.readouterr().out)
    alone = [[runs.rows(folder, f"Test_{EVALTYPE}_{family}")[-1][name]
              for family, name in (("e_recall", "e_recall@1"), ("mAP_r", "mAP_r"))]
             for folder in folders]
    for seed, numbers in zip((1, 2), alone, strict=True):
        assert rows[f"Sample_Run_s{seed}: {EVALTYPE}"] == pytest.approx(numbers, abs=6e-5)
    assert rows["separate, mean"] == pytest.approx(np.mean(alone, 0), abs=6e-5)
    assert rows["separate, standard deviation"] == pytest.approx(np.std(alone, 0, ddof=1), abs=6e-5)
    images = sorted((folders[0].parents[2] / "data/tiny/images").glob("*/image*.jpg"))[16:]
    joined = []
    for folder in folders:
        network, options = architectures.load(
            folder / f"checkpoint_{EVALTYPE}_e_recall@1.pth.tar")
        joined.append(F.normalize(embed.embeddings(network, options, images)[EVALTYPE]))
    wanted = metrics.compute(["e_recall@1", "mAP_r"], torch.cat(joined, 1), np.arange(16) // 4)
    assert rows["concatenated, 64 dimensions"] == pytest.approx(list(wanted.values()), abs=6e-5)


def test_other_metrics_evaltypes_and_folders_may_be_given(folders, capsys):
    assert call(ensemble, folders[0].parent, "--evaltype", "shared", "--evaluation_metrics",
                "e_recall@1", "nmi", "--kernels", 0, "--source_path",
                folders[0].parents[2] / "data") == 0
    out = capsys.readouterr().out
    assert "nmi" in out.splitlines()[0] and "concatenated, 32 dimensions" in table(out)


def test_a_metric_that_is_an_array_is_refused(folders, capsys):
    assert call(ensemble, *folders, "--evaluation_metrics", "e_recall@1", "rho_spectrum@0") == 2
    assert capsys.readouterr().err == (
        "evaluation.ensemble: error: --evaluation_metrics: 'rho_spectrum@0' is an array; accepted: "
        "any metric that is a number\n")


def test_runs_of_earlier_versions_are_read(folders, tmp_path, capsys):
    """Their options end where those that came later begin."""
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    for file in tmp_path.glob("*/checkpoint_*"):
        state = torch.load(file, weights_only=True)
        for name in architectures.LATER:
            del state["options"][name]
        torch.save(state, file)
    assert call(ensemble, *folders, "--kernels", 0) == 0
    expected = capsys.readouterr().out
    assert call(ensemble, tmp_path, "--kernels", 0) == 0
    assert capsys.readouterr().out == expected


def test_the_concatenation_weighs_runs_alike():
    one, other = torch.randn(5, 3), torch.randn(5, 4)
    joined, = ensemble.concatenated([[one], [100 * other]])
    assert torch.allclose(joined, torch.cat([F.normalize(one), F.normalize(other)], 1) / 2**0.5)


def test_runs_on_other_images_are_refused(folders, tmp_path, monkeypatch, capsys):
    other = runs.train(tmp_path, *ARGV)
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=9, n_images=4)
    monkeypatch.setattr(best, "embedded", None)     # which takes hours for large test splits
    capsys.readouterr()
    assert call(ensemble, folders[0], folders[1], other, "--kernels", 0) == 2
    assert capsys.readouterr().err == (
        f"evaluation.ensemble: error: folders: the runs in {str(folders[0])!r} and {str(other)!r} "
        "have different test images; accepted: runs with the same test split\n")


def test_in_shop_is_measured_in_its_gallery(tmp_path, capsys):
    trees.in_shop(tmp_path / "data" / "in-shop", n_classes=16)
    argv = (*ARGV, "--dataset", "in-shop", "--evaltypes", "discriminative")
    folders = [runs.train(tmp_path, *argv, "--seed", seed) for seed in (1, 2)]
    capsys.readouterr()
    assert call(ensemble, *folders, "--kernels", 0) == 0
    rows = table(capsys.readouterr().out)
    with open(folders[0] / "CSV_Logs/Data_Test_discriminative_mAP_r.csv") as file:
        wanted = float(list(csv.reader(file))[-1][0])
    assert rows["Sample_Run_s1: discriminative"][1] == pytest.approx(wanted, abs=6e-5)
