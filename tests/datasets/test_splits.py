import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasets
from datasets.splits import cut, divide, n_held_out
from tests import trees
from tests.utilities.test_files import ROOT
from utilities.errors import UserError


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_a_division_keeps_k_and_spaces_them_evenly(numbers):
    n, k = numbers
    kept, others = divide(range(n), k)
    assert sorted(kept + others) == list(range(n)) and len(kept) == k
    assert kept[0] >= 0 and kept[-1] < n
    gaps = np.diff(kept)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


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


def test_validation_by_samples_takes_evenly_from_each_class(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    trees.write(tmp_path / "cub200" / "images" / "000.Single" / "a.jpg", 9)
    splits = datasets.select("cub200", trees.options(tmp_path, train_val_split=0.6))
    training, validation = splits["training"], splits["validation"]
    assert training.class_names == ["000.Single", "001.Class_1"]
    assert training.labels.tolist() == [0, 1, 1, 1]
    # A class of one image trains; the validation labels leave no gap for it.
    assert validation.class_names == ["001.Class_1"]
    assert [path[-6:] for path in validation.paths] == ["01.jpg", "03.jpg"]
    assert validation.labels.tolist() == [0, 0]
    assert splits["evaluation"].paths == training.paths


@given(st.integers(1, 300), st.floats(0.001, 0.999))
def test_a_class_gives_at_least_two_images_to_validation_or_none(n, share):
    wanted, held_out = round((1 - share) * n), n_held_out(n, share)
    assert held_out != 1 and n - held_out >= 1
    if 1 < wanted < n:
        assert held_out == wanted
    if wanted == 1:
        assert held_out == (2 if n - 2 >= 2 else 0)


def test_small_classes_validate_with_two_images_or_none_and_the_share_is_printed(tmp_path, capsys):
    for c in range(2, 9):       # classes of 2 to 8 images train
        for i in range(c):
            trees.write(tmp_path / "cub200" / "images" / f"{c:03d}.Class" / f"{i}.jpg", 10 * c + i)
    for c in range(9, 16):
        trees.write(tmp_path / "cub200" / "images" / f"{c:03d}.Class" / "0.jpg", c)
    splits = datasets.select("cub200", trees.options(tmp_path, train_val_split=0.8))
    counts = [np.bincount(splits[name].labels).tolist() for name in ("training", "validation")]
    assert counts == [[2, 3, 2, 3, 4, 5, 6], [2, 2, 2, 2, 2]]
    assert capsys.readouterr().out == (
        "--train_val_split 0.8: 25 of 35 training images stay, a share of 0.714\n")


def test_validation_by_class(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=8, n_images=2)
    splits = datasets.select("cub200", trees.options(
        tmp_path, train_val_split=0.5, train_val_split_by_class=True))
    assert splits["training"].class_names == ["002.Class_2", "004.Class_4"]
    assert splits["validation"].class_names == ["001.Class_1", "003.Class_3"]
    for name in ("training", "validation"):
        assert splits[name].labels.tolist() == [0, 0, 1, 1]


@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
def test_folds_are_contiguous_equal_blocks_that_validate_each_class_once(numbers):
    n, folds = numbers
    classes = [[(f"{c}.jpg", str(c))] for c in range(n)]
    blocks = []
    for fold in range(folds):
        training, block = cut(classes, trees.options("", val_folds=folds, val_fold=fold), False)
        assert training == [group for group in classes if group not in block]
        blocks.append(block)
    assert [group for block in blocks for group in block] == classes
    assert [len(block) for block in blocks] == [n // folds + (i < n % folds) for i in range(folds)]


def test_a_fold_of_the_training_classes_validates(tmp_path, capsys):
    trees.class_folders(tmp_path / "cub200", n_classes=14, n_images=2)
    splits = datasets.select("cub200", trees.options(tmp_path, val_folds=3, val_fold=1))
    assert splits["training"].class_names == [f"{c:03d}.Class_{c}" for c in (1, 2, 3, 6, 7)]
    assert splits["validation"].class_names == ["004.Class_4", "005.Class_5"]
    assert splits["validation"].labels.tolist() == [0, 0, 1, 1]
    assert splits["testing"].class_names[0] == "008.Class_8"
    assert splits["evaluation"].paths == splits["training"].paths
    assert capsys.readouterr().out == (
        "--val_folds 3 --val_fold 1: 10 of 14 training images stay, a share of 0.714\n")


@pytest.mark.parametrize(("options", "message"), [
    ({"val_folds": 4, "val_fold": 0},
     "--val_folds: 4 given, but the dataset has 3 training classes; accepted: at most one fold for "
     "each"),
    ({"val_folds": 2, "val_fold": 0},
     "--dataset: 'cub200' has 1 training class with --val_folds 2, but --diva_features "
     "discriminative learns what tells 2 classes apart; accepted: "),
])
def test_folds_that_leave_too_little_are_refused(tmp_path, options, message):
    trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4)
    with pytest.raises(UserError) as error:
        datasets.select("cub200", trees.options(tmp_path, **options))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("options", "message"), [
    ({"bs": 13}, "--bs: 13 is more than the 12 training images of --dataset cub200; accepted: at "
                 "most 12"),
    ({"train_val_split": 0.9}, "--train_val_split: 0.9 leaves nothing for validation"),
    ({"train_val_split": 0.5, "bs": 7}, "--bs: 7 is more than the 6 training images"),
])
def test_too_few_images_are_refused(tmp_path, options, message):
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


def test_held_out_classes_of_one_image_give_no_queries(tmp_path):
    trees.in_shop(tmp_path / "in-shop", n_classes=8, n_images=4)
    table = tmp_path / "in-shop" / "Eval" / "list_eval_partition.txt"
    _, header, *rows = table.read_text().splitlines()
    rows = [row for row in rows if "train" not in row or "/01_1" in row]
    table.write_text("\n".join([str(len(rows)), header, *rows]))
    opt = trees.options(tmp_path, train_val_split=0.5, bs=2)
    with pytest.raises(UserError, match=r"^--train_val_split: 0\.5 leaves nothing for "
                       r"validation_query .*; accepted: 1 for no validation split, or a smaller"):
        datasets.select("in-shop", opt)
    opt = trees.options(tmp_path, val_folds=2, val_fold=1, bs=2)
    with pytest.raises(UserError, match=r"^--val_folds: 2 leaves nothing for validation_query .*; "
                                        r"accepted: fewer folds, or another --val_fold"):
        datasets.select("in-shop", opt)


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
