"""The rows and tables of the study."""

import torch

import architectures
import datasets
import metrics
import parameters
from datasets.loader import Loader
from tests import runs, trees
from tests.benchmarks import study
from utilities.embedding import embed
from utilities.geometry import unit


def test_cka_knows_rotations_and_scales_and_tells_independent_points(tmp_path):
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(x[:6]).Q
    assert abs(study.cka(x, 3 * x @ rotation + 1) - 1) < 1e-6
    assert study.cka(x, x.flip(0)) < 0.1


def test_a_run_gives_its_last_evaluation_its_terms_and_the_likeness_of_its_heads(tmp_path):
    folder = runs.train(tmp_path, "--diva_features", *runs.FOUR, "--n_epochs", 3, "--group", "g",
                        "--evaluate_every", 2, "--evaluation_metrics", "e_recall@1", "nmi")
    rows = list(study.of_run(folder, "seeds", None))
    assert {row[:3] for row in rows} == {("seeds", "g", "1")}
    of = {name: [row for row in rows if row[4] == name] for name in
          ("Test", "Loss", "Gradient share", "CKA")}
    assert sum(map(len, of.values())) == len(rows)
    assert [(row[3], *row[5:7]) for row in of["Test"]] == [
        ("2", "discriminative", "e_recall@1"), ("2", "discriminative", "nmi")]
    last = runs.rows(folder, "Test_discriminative_e_recall")[-1]["e_recall@1"]
    assert of["Test"][0][7] == f"{last:.6f}"
    assert len(of["CKA"]) == 6 and len(of["Gradient share"]) >= 3 * 4
    shares = [float(row[7]) for row in of["Gradient share"] if row[3] == "1"]
    assert abs(sum(shares) - 1) < 1e-4


def test_a_run_with_a_validation_fold_gives_each_epoch_of_it_and_nothing_of_the_test(tmp_path):
    folder = runs.train(tmp_path, "--n_epochs", 2, "--group", "g", "--val_folds", 2, "--val_fold",
                        0, "--bs", 4, "--evaluation_metrics", "e_recall@1")
    rows = [row for row in study.of_run(folder, "tuning", None) if row[4] not in (
        "Loss", "Gradient share")]
    assert [row[3:7] for row in rows] == [
        (epoch, "Val", "discriminative", "e_recall@1") for epoch in ("0", "1")]


def test_epochs_without_an_evaluation_have_no_rows(tmp_path):
    folder = runs.train(tmp_path, "--n_epochs", 4, "--group", "g", "--val_folds", 2, "--val_fold",
                        0, "--bs", 4, "--evaluation_metrics", "e_recall@1", "--evaluate_every", 2)
    rows = [row for row in study.of_run(folder, "tuning", None) if row[4] == "Val"]
    assert [row[3:7] for row in rows] == [
        (epoch, "Val", "discriminative", "e_recall@1") for epoch in ("0", "2", "3")]


def test_the_untrained_trunk_is_measured_on_both_test_splits(tmp_path):
    for name, classes in (("grocery", 6), ("grocery_shops", 8)):
        trees.class_folders(tmp_path / name, classes)
    argv = ["--dataset", "grocery", "--source_path", str(tmp_path), "--arch", "resnet18_normalize",
            "--not_pretrained", "--crop_size", "32", "--bs", "4", "--device", "cpu", "--kernels",
            "0"]
    rows = list(study.of_trunk(argv))
    assert [row[:7] for row in rows] == [
        ("seeds", "untrained", "0", "0", of, "trunk", metric) for of, metric in study.MEASURED]
    opt = parameters.read_arguments([*argv[:1], "grocery_shops", *argv[2:]])
    test = datasets.select("grocery_shops", opt)["testing"]
    torch.manual_seed(0)
    trunk = embed(architectures.select(opt.arch, opt), Loader(test, opt, "cpu"), None)
    expected = metrics.compute(["e_recall@1"], unit(trunk), torch.as_tensor(test.labels))
    torch.manual_seed(0)
    again = {row[4:7]: row[7] for row in study.of_trunk(argv)}
    assert again["Shops", "trunk", "e_recall@1"] == f"{expected['e_recall@1']:.6f}"


def test_rows_of_a_run_replace_its_older_ones_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FILE", tmp_path / "study.csv")
    rows = [("seeds", "g", seed, "3", "Test", "e", "nmi", value)
            for seed, value in (("0", "0.1"), ("1", "0.2"), ("0", "0.3"))]
    for row in rows:
        study.add([row])
    assert study.stored() == rows[1:]


def test_differences_are_paired_by_seed():
    rows = [("seeds", group, str(seed), "7", "Test", evaltype, "mAP_r", str(value))
            for (group, evaltype), values in ((study.DIVA, (0.5, 0.7, 0.9)),
                                              (study.MARGIN, (0.4, 0.6)))
            for seed, value in enumerate(values)]
    cells = {line.split(" | ")[0]: line.split(" | ")[2] for line in study.compared(rows)}
    assert cells["| diva - margin"] == "10.0 ± 0.0"
    assert cells["| DiVA, 4 x 128"] == "70.0 ± 49.7"
    assert cells["| DiVA without decorrelation, 4 x 128"] == "-"


def test_terms_are_means_over_seeds_in_the_order_of_epochs():
    rows = [("seeds", "diva", str(seed), str(epoch), of, "intra", "mean", str(value))
            for of, seed, values in (("Loss", 0, range(11)), ("Loss", 1, range(2, 13)),
                                     ("Gradient share", 0, [0.5] * 11))
            for epoch, value in reversed(list(enumerate(values)))]
    assert list(study.terms(rows))[-1] == (
        "| seeds | diva | intra | 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 | "
        + ", ".join(["50"] * 11) + " |")
