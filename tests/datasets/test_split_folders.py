import pytest

import datasets
from datasets.check import check_data
from tests import trees
from utilities.errors import UserError


def select(tmp_path, given=None, **classes):
    trees.split_folders(tmp_path / "mine", **classes)
    return datasets.select("mine", trees.options(tmp_path, **(given or {})))


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_test_or_val_is_the_test_split(tmp_path, held_out):
    splits = select(tmp_path, **{"train": 2, held_out: 3})
    assert list(splits) == ["training", "testing", "evaluation", "evaluation_train"]
    assert splits["training"].class_names == ["00", "01"]
    assert splits["testing"].class_names == ["02", "03", "04"]
    assert splits["testing"].labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_with_both_val_is_the_validation_split(tmp_path):
    splits = select(tmp_path, train=2, val=1, test=2)
    assert splits["validation"].class_names == ["02"]
    assert splits["testing"].class_names == ["03", "04"]
    assert list(datasets.Identity(splits, {}).state_dict()) == [
        "training", "validation", "testing", "trained_on"]
    with pytest.raises(UserError, match=r"^--train_val_split: 0\.5 given, but the dataset has a "
                                        r"folder 'val'"):
        select(tmp_path, {"train_val_split": 0.5})
    with pytest.raises(UserError, match=r"^--val_folds: 2 given, .* 'val' "
                                        r".*; accepted: no --val_folds, or the folder without"):
        select(tmp_path, {"val_folds": 2, "val_fold": 0})


def test_without_a_validation_folder_a_share_is_held_out(tmp_path):
    splits = select(tmp_path, {"train_val_split": 0.5, "train_val_split_by_class": True,
                               "bs": 2}, train=4, test=2)
    assert splits["training"].class_names == ["01", "03"]
    assert splits["validation"].class_names == ["00", "02"]


def test_classes_in_training_and_test_are_reported(tmp_path, capsys):
    trees.split_folders(tmp_path / "mine", train=3, val=2, test=2)
    for split, label in (("test", "01"), ("val", "00"), ("val", "02")):
        trees.write(tmp_path / "mine" / split / label / "new.jpg", 7)
    splits = datasets.select("mine", trees.options(tmp_path))
    assert splits["testing"].class_names == ["01", "05", "06"]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "--source_path: of the 4 classes in 'val' 2 stand in 'train', too, and are no unseen ones: "
        "'00', '02'",
        "--source_path: of the 3 classes in 'test' 1 stand in 'train', too, and are no unseen "
        "ones: '01'"]
    datasets.check_unseen(splits, {"mine": ["00", "01", "02"]})


def test_images_in_class_folders_go_before_these(tmp_path):
    trees.class_folders(tmp_path / "mine", n_classes=4)
    assert select(tmp_path, train=2, test=2)["testing"].class_names == [
        "003.Class_3", "004.Class_4"]


@pytest.mark.parametrize(("classes", "message"), [
    ({"train": 2}, "has a folder 'train', but neither 'test' nor 'val'; accepted: {train,val"),
    ({"train": 2, "test": 0}, "--dataset: no class folder in '")])
def test_what_is_missing_is_named(tmp_path, classes, message):
    if 0 in classes.values():
        (tmp_path / "mine" / "test").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        select(tmp_path, **classes)
    assert message in str(error.value)


def test_an_empty_class_is_named_and_broken_images_are_left_out(tmp_path, capsys):
    folder = trees.split_folders(tmp_path / "mine", train=3, test=2)
    (folder / "test" / "04" / "0.jpg").write_bytes(b"")
    splits = datasets.select("mine", trees.options(tmp_path, skip_broken_images=True))
    assert len(splits["testing"]) == 5
    (folder / "train" / "empty").mkdir()
    assert not check_data("mine", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert f"no image in the class folder {str(folder / 'train' / 'empty')!r}" in said
    assert "cannot read" in said


def test_a_validation_folder_of_broken_images_is_not_the_fault_of_a_share(tmp_path):
    folder = trees.split_folders(tmp_path / "mine", train=2, val=1, test=1)
    for path in (folder / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^--dataset: no image in the validation split of "):
        datasets.select("mine", trees.options(tmp_path, skip_broken_images=True))
