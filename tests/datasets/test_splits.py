import numpy as np
import pytest

import datasets
from tests import trees
from tests.utilities.test_files import ROOT
from utilities.errors import UserError


def test_training_images_come_three_times_and_labels_start_at_zero(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4)
    splits = datasets.select("cub200", trees.options(tmp_path))
    assert list(splits) == ["training", "testing", "evaluation", "evaluation_train"]
    for name in ("evaluation", "evaluation_train"):
        assert splits[name].paths == splits["training"].paths
        assert splits[name].labels.tolist() == splits["training"].labels.tolist()
    for split in splits.values():
        assert split.labels.dtype == np.int64 and split.n_classes == 3 and split.name == "cub200"
        assert split.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not set(splits["training"].paths) & set(splits["testing"].paths)
    assert set(datasets.Identity(splits, {}).state_dict()) == {
        "training", "testing", "trained_on"}


@pytest.mark.parametrize(("options", "message"), [
    ({"val_folds": 4, "val_fold": 0},
     "--val_folds: 4 given, but the dataset has 3 training classes; accepted: at most one fold for "
     "each"),
    ({"val_folds": 2, "val_fold": 0},
     "--dataset: 'cub200' has 1 training class with --val_folds 2, but --diva_features "
     "discriminative learns what tells 2 classes apart; accepted: "),
    ({"bs": 13}, "--bs: 13 is more than the 12 training images of --dataset cub200; accepted: at "
                 "most 12"),
    ({"train_val_split": 0.9}, "--train_val_split: 0.9 leaves nothing for validation"),
    ({"train_val_split": 0.5, "bs": 7}, "--bs: 7 is more than the 6 training images"),
])
def test_too_few_images_or_classes_are_refused(tmp_path, options, message):
    trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4)
    with pytest.raises(UserError) as error:
        datasets.select("cub200", trees.options(tmp_path, **options))
    assert str(error.value).startswith(message)


def test_a_training_set_of_any_size_will_do_where_nothing_trains(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4)
    splits = datasets.select("cub200", trees.options(tmp_path, bs=13, evaluate_only=True))
    assert len(splits["training"]) == 12


def keep_header(folder, split):
    table = folder / "Info_Files" / f"Ebay_{split}.txt"
    table.write_text(table.read_text().partition("\n")[0] + "\n")


def keep_rows_without(folder, status):
    table = folder / "Eval" / "list_eval_partition.txt"
    _, header, *rows = table.read_text().splitlines()
    rows = [row for row in rows if not row.endswith(status)]
    table.write_text("\n".join([str(len(rows)), header, *rows]))


@pytest.mark.parametrize("given_options", [
    {}, {"evaluate_only": True}, {"train_val_split": 0.5}], ids=str)
@pytest.mark.parametrize(("name", "empty", "given", "split"), [
    ("online_products", keep_header, "train", "training"),
    ("online_products", keep_header, "test", "testing"),
    ("in-shop", keep_rows_without, "query", "testing_query"),
    ("in-shop", keep_rows_without, "gallery", "testing_gallery"),
])
def test_a_split_without_images_is_refused(tmp_path, name, empty, given, split, given_options):
    layout = {"online_products": trees.online_products, "in-shop": trees.in_shop}[name]
    empty(layout(tmp_path / name), given)
    with pytest.raises(UserError) as error:
        datasets.select(name, trees.options(tmp_path, **given_options))
    assert str(error.value) == (f"--dataset: no image in the {split} split of "
                                f"{str(tmp_path / name)!r}; at least 1 is needed")


def test_a_split_of_broken_images_is_refused(tmp_path, capsys):
    folder = trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=2) / "images"
    for name in ("003.Class_3", "004.Class_4"):
        for path in (folder / name).glob("image_*"):
            path.write_bytes(b"")
    with pytest.raises(UserError, match="--dataset: no image in the testing split of "):
        datasets.select("cub200", trees.options(tmp_path, skip_broken_images=True))
    assert "testing keeps 0 of 4 images" in capsys.readouterr().out


def test_queries_whose_classes_the_gallery_lacks_are_legal(tmp_path):
    trees.in_shop(tmp_path / "in-shop", n_classes=4, n_images=2)
    table = tmp_path / "in-shop" / "Eval" / "list_eval_partition.txt"
    _, header, *rows = table.read_text().splitlines()
    rows = [row for row in rows if row.endswith("train")
            or ("id_00000003" in row) == row.endswith("query")]
    table.write_text("\n".join([str(len(rows)), header, *rows]))
    splits = datasets.select("in-shop", trees.options(tmp_path))
    assert splits["testing_query"].labels.tolist() == [0]
    assert splits["testing_gallery"].labels.tolist() == [1]


def test_listed_images_that_cannot_be_read_are_left_out_and_named(tmp_path, capsys):
    folder = trees.online_products(tmp_path / "online_products")
    gone = folder / "images" / "bicycle_final" / "111000000000_0.JPG"
    gone.unlink()
    circle = folder / "images" / "bicycle_final" / "circle.JPG"
    circle.symlink_to(circle)
    with open(folder / "Info_Files" / "Ebay_test.txt", "a") as table:
        table.write(f"98 7 1 bicycle_final/circle.JPG\n99 7 1 bicycle_final/{'x' * 300}.JPG\n")
    opt = trees.options(tmp_path, skip_broken_images=True)
    splits = datasets.select("online_products", opt)
    assert (len(splits["training"]), len(splits["testing"])) == (11, 12)
    said = capsys.readouterr().out
    assert f"left out {str(gone)!r}: it does not exist" in said
    assert f"left out {str(circle)!r}: Too many levels of symbolic links" in said
    assert "xx.JPG': File name too long" in said


def test_broken_images_are_left_out_named_and_counted(tmp_path, capsys):
    folder = trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4) / "images"
    first = folder / "001.Class_1" / "image_00.jpg"
    first.write_bytes(first.read_bytes()[:300])
    for path in (folder / "002.Class_2").glob("image_*"):
        path.write_bytes(b"")
    dangling = folder / "005.Class_5" / "dangling.png"
    dangling.symlink_to("nowhere.png")
    splits = datasets.select("cub200", trees.options(tmp_path, skip_broken_images=True))
    assert splits["training"].class_names == ["001.Class_1", "003.Class_3"]
    assert splits["training"].labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert len(splits["testing"]) == 12 and splits["testing"].n_classes == 3
    said = capsys.readouterr().out
    assert f"left out {str(first)!r}: " in said
    assert f"left out {str(dangling)!r}: it does not exist" in said
    assert said.count("it is empty") == 4
    assert "training keeps 7 of 12 images, 2 of 3 classes" in said
    assert "testing keeps 12 of 13 images, 3 of 3 classes" in said


def test_one_training_class_is_refused_where_labels_teach(tmp_path):
    """The first half of two or three classes."""
    for n_classes, name in ((2, "two"), (3, "three")):
        trees.class_folders(tmp_path / name, n_classes)
        with pytest.raises(UserError, match=rf"^--dataset: '{name}' has 1 training class .* learns "
                                            r"what tells 2 classes apart; accepted: at least 2 "):
            datasets.select(name, trees.options(tmp_path, diva_features=["dc", "discriminative"]))
        for options in ({"diva_features": ["dc", "imrot"]}, {"evaluate_only": True}):
            splits = datasets.select(name, trees.options(tmp_path, **options))
            assert splits["training"].n_classes == 1


@pytest.mark.parametrize("sharing", ["random", "standard", "full"])
def test_tuples_across_classes_need_three_training_classes(tmp_path, sharing):
    trees.class_folders(tmp_path / "four", 4)
    options = trees.options(tmp_path, diva_features=["shared"], diva_sharing=sharing)
    if sharing == "random":
        assert datasets.select("four", options)["training"].n_classes == 2
    else:
        with pytest.raises(UserError, match=r"'four' has 2 training classes .* tells 3 classes "):
            datasets.select("four", options)


def test_training_classes_of_one_image_are_told(tmp_path, capsys):
    trees.class_folders(tmp_path / "single", 12, n_images=1)
    datasets.select("single", trees.options(tmp_path))
    assert "No training class has two images" in capsys.readouterr().out
    datasets.select("single", trees.options(tmp_path, loss="proxynca"))
    assert "two images" not in capsys.readouterr().out


@pytest.mark.parametrize(("target", "wrong"), [
    ("nowhere.jpg", "does not exist"),
    ("image_9.jpg", "cannot be reached (Too many levels of symbolic links)")])
def test_a_link_that_leads_to_no_file_is_refused_before_training(tmp_path, target, wrong):
    """It stands in the last test class, so that the first evaluation would have met it."""
    folder = trees.class_folders(tmp_path / "tiny", n_classes=6) / "images"
    broken = folder / "006.Class_6" / "image_9.jpg"
    broken.symlink_to(target)
    with pytest.raises(UserError) as error:
        datasets.select("tiny", trees.options(tmp_path))
    assert str(error.value).startswith(
        f"--source_path: 1 of 25 listed images are missing, the first is {str(broken)!r}, "
        f"which {wrong}; --check_data lists ")


def test_a_listed_folder_is_no_image(tmp_path):
    folder = trees.online_products(tmp_path / "online_products")
    path = folder / "images" / "bicycle_final" / "111000000000_0.JPG"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"_0\.JPG', which is no file; --check_data lists "):
        datasets.select("online_products", trees.options(tmp_path))


@pytest.mark.skipif(ROOT, reason="root may enter every folder")
def test_a_class_folder_that_may_not_be_entered_is_refused_before_training(tmp_path):
    folder = trees.class_folders(tmp_path / "tiny", n_classes=6) / "images" / "006.Class_6"
    folder.chmod(0o644)
    try:
        with pytest.raises(UserError, match=r"4 of 24 listed images are missing, .*image_00.jpg', "
                                            r"which cannot be reached \(Permission denied\)"):
            datasets.select("tiny", trees.options(tmp_path))
    finally:
        folder.chmod(0o755)
