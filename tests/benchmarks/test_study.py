"""The rows and tables of the study."""

import torch

from tests import runs
from tests.benchmarks import study


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


def test_differences_are_paired_by_seed():
    rows = [("seeds", group, str(seed), "7", "Test", evaltype, "mAP_r", str(value))
            for (group, evaltype), values in ((study.DIVA, (0.5, 0.7, 0.9)),
                                              (study.MARGIN, (0.4, 0.6)))
            for seed, value in enumerate(values)]
    cells = {line.split(" | ")[0]: line.split(" | ")[2] for line in study.compared(rows)}
    assert cells["| diva - margin"] == "10.0 ± 0.0"
    assert cells["| DiVA, 4 x 128"] == "70.0 ± 49.7"
    assert cells["| DiVA without decorrelation, 4 x 128"] == "-"
