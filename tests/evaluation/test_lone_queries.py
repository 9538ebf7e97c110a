"""Queries that have no other image of their class to find, in whole runs."""

import pytest

import diva_main
import parameters
from tests import runs, trees


def lonely(tmp_path, *numbers, n_images=6):
    """Six classes of which those in `numbers`, from 1, keep one image; the last three test."""
    folder = trees.class_folders(tmp_path / "data" / "tiny", n_images=n_images) / "images"
    for number in numbers:
        for path in (folder / f"{number:03d}.Class_{number}").glob("image_0[1-9]*"):
            path.unlink()
    return folder


def refused(tmp_path, capsys, *argv) -> str:
    """The one line of a run that ends with status 2, before an epoch and without a folder."""
    assert diva_main.main(parameters.read_arguments(runs.arguments(tmp_path, *argv))) == 2
    told = capsys.readouterr()
    assert "Epoch" not in told.out and not runs.folders(tmp_path)
    assert told.err.count("\n") == 1
    return told.err


def line(split, lone, n):
    return (f"{split}: {lone} of {n} queries have no other image of their class to find: misses in "
            "recall and mAP, left out of mAP_r and r_precision.\n")


def test_a_run_says_once_how_many_queries_have_nothing_to_find(tmp_path, capsys):
    lonely(tmp_path, 3, 5, 6)
    folder = runs.train(tmp_path, "--n_epochs", 2, "--train_metrics", "--evaluation_metrics",
                        "e_recall@20", "r_precision")
    said = capsys.readouterr().out
    assert said.count(line("Train", 1, 13)) == said.count(line("Test", 2, 8)) == 1
    assert said.count("to find") == 2
    recall, = {row["e_recall@20"] for row in runs.rows(folder, "Test_discriminative_e_recall")}
    assert recall == pytest.approx(6 / 8)


def test_a_run_without_lone_queries_says_nothing(tmp_path, capsys):
    runs.train(tmp_path)
    assert "to find" not in capsys.readouterr().out


def test_broken_images_that_are_skipped_leave_lone_queries(tmp_path, capsys):
    folder = lonely(tmp_path)
    for path in (folder / "004.Class_4").glob("image_0[1-9]*"):
        path.write_bytes(b"")
    runs.train(tmp_path, "--skip_broken_images")
    assert line("Test", 1, 13) in capsys.readouterr().out


def test_in_shop_queries_whose_item_the_gallery_lacks_have_nothing_to_find(tmp_path, capsys):
    folder = trees.in_shop(tmp_path / "data" / "in-shop", n_images=4)
    table = folder / "Eval" / "list_eval_partition.txt"
    _, header, *rows = table.read_text().splitlines()
    rows = [row for row in rows if not ("id_00000004" in row and row.endswith("gallery"))]
    table.write_text("\n".join([str(len(rows)), header, *rows]))
    runs.train(tmp_path, "--dataset", "in-shop", "--evaluation_metrics", "e_recall@1")
    assert line("Test", 2, 6) in capsys.readouterr().out


def test_a_test_split_without_a_positive_cannot_choose_epochs(tmp_path, capsys):
    lonely(tmp_path, 4, 5, 6)
    assert refused(tmp_path, capsys) == (
        "diva_main.py: error: --dataset: 'tiny' given, but none of the 3 queries of the test split "
        "has another image of its class to find; accepted: two classes or more, of which some have "
        "two images or more\n")
    runs.train(tmp_path, "--train_val_split", 0.5)
    assert line("Test", 3, 3) in capsys.readouterr().out


def test_a_validation_split_without_a_positive_cannot_choose_epochs(tmp_path, capsys):
    lonely(tmp_path, 2, n_images=8)
    assert refused(tmp_path, capsys, "--train_val_split", 0.7, "--train_val_split_by_class") == (
        "diva_main.py: error: --train_val_split: 0.7 given, but none of the 1 queries of the "
        "validation split has another image of its class to find; accepted: 1 for no validation "
        "split, or another share\n")


@pytest.mark.parametrize("which, argv", [
    ("test", ["--diva_features", "imrot", "--bs", "4"]),
    ("validation", ["--train_val_split", "0.7", "--train_val_split_by_class"])])
def test_a_split_of_one_class_cannot_choose_epochs(tmp_path, capsys, which, argv):
    trees.class_folders(tmp_path / "data" / "tiny", 2 if which == "test" else 6)
    assert f"the {which} split has one class, in which every neighbour is right; accepted: " in (
        refused(tmp_path, capsys, *argv))


def test_what_is_only_evaluated_may_have_lone_queries_alone(tmp_path, capsys):
    checkpoint = runs.train(tmp_path) / "checkpoint_last.pth.tar"
    (tmp_path / "data" / "tiny").rename(tmp_path / "data" / "first")
    lonely(tmp_path, 4, 5, 6)
    (tmp_path / "data" / "tiny").rename(tmp_path / "data" / "other")
    capsys.readouterr()
    words = ["--evaluate_only", "--checkpoint", str(checkpoint), "--dataset", "other"]
    assert diva_main.main(parameters.read_arguments(words)) == 0
    assert capsys.readouterr().out.startswith(line("Test", 3, 3))


@pytest.mark.parametrize("dataset", ["tiny", "in-shop"])
@pytest.mark.parametrize("split", ["Test", "Train"])
def test_a_spectrum_of_more_values_than_images_is_refused(tmp_path, capsys, dataset, split):
    trees.in_shop(tmp_path / "data" / "in-shop", n_images=4)
    for path in (lonely(tmp_path) / "002.Class_2").glob("image_0[1-9]*"):
        path.unlink()
    given = {"Test": [], "Train": ["--train_metrics"]}[split]
    n = {"tiny": {"Test": 18, "Train": 13}, "in-shop": {"Test": 12, "Train": 12}}[dataset][split]
    assert refused(tmp_path, capsys, "--embed_dim", 64, "--dataset", dataset, *given,
                   "--evaluation_metrics", f"rho_spectrum@-{n + 1}") == (
        f"diva_main.py: error: --evaluation_metrics: 'rho_spectrum@-{n + 1}' leaves no singular "
        f"value of the {n} images of {split}; accepted: up to rho_spectrum@{n}\n")
    runs.train(tmp_path, "--embed_dim", 64, "--dataset", dataset, *given,
               "--evaluation_metrics", f"rho_spectrum@-{n}")
