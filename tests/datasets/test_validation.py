import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasets
from datasets.validation import cut, divide, n_held_out
from tests import trees
from utilities.errors import UserError


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_a_division_keeps_k_and_spaces_them_evenly(numbers):
    n, k = numbers
    kept, others = divide(range(n), k)
    assert sorted(kept + others) == list(range(n)) and len(kept) == k
    assert kept[0] >= 0 and kept[-1] < n
    gaps = np.diff(kept)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


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
