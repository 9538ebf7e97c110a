"""No network is tested on classes that it was trained on, whatever became of its data since."""

import shutil

import pytest
import torch

import datasets
import diva_main
import parameters
from architectures import weights
from tests import runs, trees
from utilities.errors import UserError

TOLD = "The checkpoint does not name the classes that it was trained on"
REFUSED = ("diva_main.py: error: --dataset: the network was trained on {} of 'tiny': {}; accepted: "
           "classes divided as they were when it was trained, or other images under another name")


@pytest.fixture
def data(tmp_path):
    """Six classes of six; the first three train."""
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=6, n_images=6)
    return tmp_path


def main(*argv) -> int:
    return diva_main.main(parameters.read_arguments([str(word) for word in argv]))


def evaluate(file, *argv) -> int:
    return main("--evaluate_only", "--checkpoint", file, "--kernels", 0, *argv)


def remove_classes(data, *numbers) -> None:
    for number in numbers:
        shutil.rmtree(data / "data" / "tiny" / "images" / f"{number:03d}.Class_{number}")


def test_every_checkpoint_names_the_classes_it_was_trained_on(data):
    folder = runs.train(data)
    files = list(folder.glob("checkpoint_*"))
    assert len(files) == 2
    for file in files:
        saved = torch.load(file, weights_only=True)["data"]["trained_on"]
        assert saved == {"tiny": ["001.Class_1", "002.Class_2", "003.Class_3"]}


def test_classes_held_out_for_validation_are_not_among_them(data):
    folder = runs.train(data, "--train_val_split", 0.34, "--train_val_split_by_class",
                        "--diva_features", "imrot", "--evaltypes", "imrot", "--bs", 4)
    assert runs.last(folder)["data"]["trained_on"] == {"tiny": ["002.Class_2"]}


def test_nor_is_the_fold_that_validates(tmp_path, capsys):
    """Whoever evaluates such a checkpoint gets the same fold; another one is refused."""
    folder = runs.train(tmp_path, "--val_folds", 2, "--val_fold", 1)
    assert runs.last(folder)["data"]["trained_on"] == {"tiny": ["001.Class_1", "002.Class_2"]}
    for file in folder.glob("checkpoint_*"):
        capsys.readouterr()
        assert evaluate(file) == 0
        assert "Val" in capsys.readouterr().out
        assert evaluate(file, "--val_fold", 0) == 2
        assert capsys.readouterr().err.splitlines() == [REFUSED.format(
            "2 of the 2 validation classes", "'001.Class_1', '002.Class_2'")]


def test_a_training_class_that_moved_into_the_test_is_refused_by_name(data, capsys):
    """Two test classes are deleted: the halves are two and two, and the third class tests."""
    folder = runs.train(data)
    remove_classes(data, 5, 6)
    capsys.readouterr()
    for file in folder.glob("checkpoint_*"):
        assert evaluate(file) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.splitlines() == [
            REFUSED.format("1 of the 2 testing classes", "'003.Class_3'")]


def test_so_is_one_that_moved_into_a_validation_by_class(data, capsys):
    folder = runs.train(data)
    capsys.readouterr()
    assert evaluate(folder / "checkpoint_last.pth.tar", "--train_val_split", 0.67,
                    "--train_val_split_by_class", "--bs", 4) == 2
    assert capsys.readouterr().err.splitlines() == [
        REFUSED.format("1 of the 1 validation classes", "'002.Class_2'")]


def test_a_validation_split_may_share_the_classes_of_the_training(data):
    folder = runs.train(data, "--train_val_split", 0.5)
    assert evaluate(folder / "checkpoint_last.pth.tar") == 0


def test_under_another_name_the_same_class_names_are_other_classes(data, capsys):
    folder = runs.train(data)
    trees.class_folders(data / "data" / "others", n_classes=4)
    assert evaluate(folder / "checkpoint_last.pth.tar", "--dataset", "others") == 0
    assert TOLD not in capsys.readouterr().out


@pytest.mark.parametrize("of", ["an earlier version", "the original"])
def test_a_checkpoint_without_names_is_evaluated_and_says_so_once(data, capsys, of):
    folder = runs.train(data)
    remove_classes(data, 5, 6)
    file = folder / "checkpoint_last.pth.tar"
    state = torch.load(file, weights_only=True)
    if of == "an earlier version":
        del state["data"]["trained_on"]
    else:
        state = {"state_dict": state["state_dict"]}
    torch.save(state, file)
    capsys.readouterr()
    assert evaluate(file) == 0
    told = capsys.readouterr().out
    assert told.count(TOLD) == 1 and "discriminative" in told


@pytest.mark.parametrize("damaged", [[1, 2], "tiny", {"tiny": [1]}, {"tiny": "abc"}, {1: ["a"]},
                                     {"tiny": None}], ids=repr)
def test_damaged_names_are_no_names(tmp_path, damaged):
    """None stands for a checkpoint that does not name its classes."""
    state = {"state_dict": {"weight": torch.ones(2)}, "data": {"trained_on": damaged}}
    torch.save(state, tmp_path / "file")
    assert weights.read_checkpoint(tmp_path / "file").trained_on is None


def test_a_run_of_an_earlier_version_goes_on_and_gains_names(data):
    folder = runs.train(data)
    file = folder / "checkpoint_last.pth.tar"
    state = runs.last(folder)
    names = state["data"].pop("trained_on")
    torch.save(state, file)
    runs.resume(folder, "--n_epochs", 2)
    assert runs.last(folder)["data"]["trained_on"] == names


@pytest.mark.parametrize("layout", [trees.online_products, trees.in_shop])
def test_lists_that_were_changed_are_refused_too(tmp_path, layout):
    """By class names as each layout has them; the first ten are listed."""
    name = {"in_shop": "in-shop"}.get(layout.__name__, layout.__name__)
    layout(tmp_path / name, n_classes=24, n_images=2)
    splits = datasets.select(name, trees.options(tmp_path))
    trained_on = datasets.Identity(splits, {}).state_dict()["trained_on"]
    assert len(trained_on[name]) == 12
    swapped = splits | {"training": splits["testing"], "testing": splits["training"]}
    with pytest.raises(UserError, match=r"trained on 12 of the 12 testing classes of '.*': "
                                        r"('\w+', ){9}'\w+' and 2 more; accepted: classes"):
        datasets.check_unseen(swapped, trained_on)


def test_classes_that_train_and_test_in_the_dataset_itself_are_its_own_matter(tmp_path):
    trees.class_folders(tmp_path / "cub200")
    splits = datasets.select("cub200", trees.options(tmp_path))
    splits["testing"] = splits["training"]
    datasets.check_unseen(splits, {"cub200": splits["training"].class_names})
    assert datasets.seen(splits["testing"], {"cub200": ["002.Class_2"]}) == ["002.Class_2"]


def test_names_of_any_bytes_are_kept(tmp_path):
    names = {"tiny": ["M\udcfcnze", "Strauß"]}
    torch.save({"data": {"trained_on": names}}, tmp_path / "file")
    assert torch.load(tmp_path / "file", weights_only=True)["data"]["trained_on"] == names
