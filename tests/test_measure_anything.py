"""What `--evaluate_only` measures and writes: all classes, results, each class, categories."""

import csv
import json
import shutil

import pytest

import diva_main
import parameters
from evaluation import summarize
from tests import runs, trees
from tests.tools import call
from utilities.checkpoint import TEMPORARY
from utilities.errors import UserError

METRICS = ("--evaluation_metrics", "e_recall@1", "mAP_r", "nmi")


def evaluate(folder, *argv) -> int:
    return diva_main.main(parameters.read_arguments([str(word) for word in (
        "--evaluate_only", "--checkpoint", folder / "checkpoint_last.pth.tar", "--kernels", 0,
        *argv)]))


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """A run on a table with queries and two categories, and the folder that holds its data."""
    tmp_path = tmp_path_factory.mktemp("shops")
    rows = trees.table_rows(8, queries=True)
    for row in rows:
        row["category"] = "fruit" if row["label"] % 2 else "milk"
    rows[-1]["category"] = rows[-2]["category"] = ""
    trees.table(tmp_path / "data" / "shops", rows)
    return runs.train(tmp_path, "--dataset", "shops", *METRICS), tmp_path / "data"


def test_the_final_table_has_one_for_each_category_and_logs_have_none(shops):
    folder, _ = shops
    summary = (folder / "training_summary.txt").read_text()
    titles = [line.split("  ")[0] for line in summary.splitlines() if "e_recall@1  " in line]
    assert titles == ["Test", "Test, fruit", "Test, milk"]
    assert {path.name for path in folder.glob("CSV_Logs/Data_Test*")} == {
        f"Data_Test_discriminative_{family}.csv" for family in ("e_recall", "mAP_r", "nmi")}


def test_a_summary_over_seeds_has_a_block_for_each_category(shops, capsys):
    assert call(summarize, shops[0]) == 0
    blocks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Test")]
    assert blocks == [f"{title}: discriminative" for title in ("Test", "Test, fruit", "Test, milk")]


def test_results_hold_the_metrics_of_the_split_and_of_each_category(shops, tmp_path, capsys):
    folder, _ = shops
    results, classes = tmp_path / "new.json", tmp_path / "new.csv"
    written_by_a_training = tmp_path / TEMPORARY
    written_by_a_training.write_bytes(b"half a checkpoint")
    assert evaluate(folder, "--results", results, "--per_class", classes) == 0
    assert written_by_a_training.read_bytes() == b"half a checkpoint"
    said, found = capsys.readouterr().out, json.loads(results.read_text())
    assert found["splits"] == {"Test": {"images": 16, "queries": 8, "classes": 4,
                                        "queries_with_nothing_to_find": 0}}
    whole = found["metrics"]["discriminative"]["Test"]
    assert list(whole) == ["e_recall@1", "mAP_r", "nmi", "r_precision"]
    assert whole["e_recall@1"] == runs.rows(folder, "Test_discriminative_e_recall")[-1][
        "e_recall@1"]
    parts = found["categories"]["discriminative"]["Test"]
    assert list(parts) == ["fruit", "milk"]     # labels 5, 7 and 6; of 8 one query has none
    for name, values in parts.items():
        assert f"Test, {name}" in said and f"{values['e_recall@1']:.4f}" in said
    with open(classes, newline="") as file:
        of_classes = {row["class"]: row for row in csv.DictReader(file)}
    assert list(of_classes) == ["5", "6", "7", "8"]
    assert all((row["images"], row["queries"]) == ("4", "2") for row in of_classes.values())
    recall = {label: float(row["e_recall@1"]) for label, row in of_classes.items()}
    assert sum(recall.values()) / 4 == pytest.approx(whole["e_recall@1"])
    assert (recall["5"] + recall["7"]) / 2 == pytest.approx(parts["fruit"]["e_recall@1"])
    assert "environment" in found and found["checkpoint"].endswith("checkpoint_last.pth.tar")


def test_nothing_is_overwritten(shops, tmp_path, capsys):
    folder, _ = shops
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for flag in ("--results", "--per_class"):
        for path, wrong in ((mine, "exists; accepted: a path where nothing is yet"),
                            (tmp_path / "link", "exists; accepted"),
                            (tmp_path / "none" / "x", "the folder of"), (tmp_path, "exists")):
            assert evaluate(folder, flag, path) == 2
            told = capsys.readouterr()
            assert told.err.startswith(f"diva_main.py: error: {flag}: ") and wrong in told.err
            assert told.err.count("\n") == 1 and told.out == ""
    assert mine.read_text() == "mine"


def test_all_classes_with_queries_add_the_training_images_to_both_sides(shops, tmp_path, capsys):
    folder, _ = shops
    results = tmp_path / "all.json"
    assert evaluate(folder, "--all_classes", "--results", results) == 0
    said, found = capsys.readouterr().out, json.loads(results.read_text())
    assert ("The network was trained on 4 of the 8 classes, so these numbers are not about unseen "
            "classes alone: '1', '2', '3', '4'") in said
    assert found["splits"] == {"All": {"images": 32, "queries": 24, "classes": 8,
                                       "queries_with_nothing_to_find": 0}}
    assert found["classes_trained_on"] == ["1", "2", "3", "4"] and found["all_classes"] is True


def test_all_classes_of_any_folder_or_table(shops, tmp_path, capsys):
    """One without training images, too; in other data no class was trained on."""
    folder, _ = shops
    trees.class_folders(tmp_path / "folders", n_classes=3, n_images=2)
    trees.split_folders(tmp_path / "divided", train=2, val=1, test=1)
    trees.table(tmp_path / "tested", trees.table_rows(queries=True)[12:])
    for name, images in (("folders", 6), ("divided", 12), ("tested", 12)):
        results = tmp_path / f"{name}.json"
        assert evaluate(folder, "--source_path", tmp_path, "--dataset", name, "--all_classes",
                        "--results", results, "--evaluation_metrics", "e_recall@1") == 0
        assert json.loads(results.read_text())["splits"]["All"]["images"] == images
    assert "was trained on" not in capsys.readouterr().out
    assert json.loads((tmp_path / "tested.json").read_text())["splits"]["All"]["queries"] == 6


def test_all_classes_leave_out_broken_images_and_use_the_cache(shops, tmp_path, capsys):
    folder, data = shops
    shutil.copytree(data, tmp_path / "data")
    broken = tmp_path / "data" / "shops" / "pictures" / "0_0.jpg"
    words = ("--all_classes", "--source_path", tmp_path / "data")
    assert evaluate(folder, *words, "--cache", "ram") == 0
    broken.write_bytes(b"")
    assert evaluate(folder, *words) == 2
    assert f"cannot read the image {str(broken)!r} (row 2 of " in capsys.readouterr().err
    assert evaluate(folder, *words, "--skip_broken_images") == 0
    assert "--skip_broken_images: all keeps 31 of 32 images" in capsys.readouterr().out


def test_nobody_knows_what_a_checkpoint_without_names_was_trained_on(shops, capsys):
    import torch

    folder, _ = shops
    state = runs.last(folder)
    del state["data"]["trained_on"]
    other = folder / "nameless.pth.tar"
    torch.save(state, other)
    assert evaluate(folder, "--all_classes", "--checkpoint", other) == 0
    assert "nothing can tell" in capsys.readouterr().out


@pytest.mark.parametrize("options", [
    ["--train_val_split", 0.5], ["--train_metrics"], ["--all_classes", "--resume", "x"]], ids=str)
def test_what_all_classes_leave_no_room_for_is_refused(shops, capsys, options):
    folder, _ = shops
    with pytest.raises(SystemExit) as end:
        evaluate(folder, "--all_classes", *options)
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_run_that_held_out_images_is_measured_on_all(tmp_path, capsys):
    folder = runs.train(tmp_path, "--train_val_split", 0.5, "--train_metrics", "--bs", 8)
    capsys.readouterr()
    assert evaluate(folder, "--all_classes") == 0
    assert "trained on 4 of the 8 classes" in capsys.readouterr().out


def test_a_resumed_run_on_a_table_refuses_other_boxes(shops, tmp_path):
    folder, data = shops
    shutil.copytree(folder, tmp_path / "run")
    shutil.copytree(data, tmp_path / "data")
    table = tmp_path / "data" / "shops" / "table.csv"
    header, *rows = table.read_text().splitlines()
    lines = [f"{header},x_1,y_1,x_2,y_2", *(f"{row},0,0,20,20" for row in rows)]
    words = ["--resume", tmp_path / "run", "--n_epochs", 2, "--source_path", tmp_path / "data"]
    table.write_text("\n".join(lines))
    assert diva_main.main(parameters.read_arguments(list(map(str, words)))) == 2
    table.write_text("\n".join([header, *rows]))
    runs.resume(tmp_path / "run", *words[2:])
    assert runs.last(tmp_path / "run")["epoch"] == 2


def test_divided_folders_train_and_choose_on_val(tmp_path, capsys):
    trees.split_folders(tmp_path / "data" / "tiny", train=4, val=2, test=2)
    folder = runs.train(tmp_path)
    assert "Checkpoints are chosen by the best e_recall@1 on the validation split" in (
        capsys.readouterr().out)
    assert runs.rows(folder, "Val_discriminative_e_recall")
    assert evaluate(folder) == 0
    assert "Val" in capsys.readouterr().out


def test_a_val_folder_without_pairs_is_not_the_fault_of_a_share(tmp_path):
    folder = trees.split_folders(tmp_path / "data" / "tiny", train=4, val=2, test=2)
    for path in (folder / "val").rglob("[12].jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"^--dataset: 'tiny' given, but none of the 2 queries of "
                                        r"the validation split .*; accepted: a folder 'val' of"):
        runs.assembled(tmp_path)
