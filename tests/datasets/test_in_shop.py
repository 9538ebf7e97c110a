import numpy as np
import pytest

import datasets
from tests import trees
from tests.utilities.test_files import ROOT
from utilities.errors import UserError


def test_queries_and_gallery_share_their_labels(tmp_path):
    trees.in_shop(tmp_path / "in-shop", n_classes=6, n_images=4)
    splits = datasets.select("in-shop", trees.options(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {
        "training": 12, "testing_query": 6, "testing_gallery": 6, "testing": 12,
        "evaluation": 12, "evaluation_train": 12}
    query, gallery = splits["testing_query"], splits["testing_gallery"]
    assert query.class_names == gallery.class_names == [
        "id_00000004", "id_00000005", "id_00000006"]
    for split in (query, gallery):
        items = [path.split("/")[-2] for path in split.paths]
        assert items == [split.class_names[label] for label in split.labels]
    assert set(query.paths) | set(gallery.paths) == set(splits["testing"].paths)


def test_a_class_without_a_query_keeps_its_label_in_the_gallery(tmp_path):
    folder = trees.in_shop(tmp_path / "in-shop", n_classes=6, n_images=2)
    partition = folder / "Eval" / "list_eval_partition.txt"
    rows = [row for row in partition.read_text().splitlines()
            if not ("id_00000005" in row and "query" in row)]
    partition.write_text("\n".join(["11", *rows[1:]]))
    splits = datasets.select("in-shop", trees.options(tmp_path))
    assert splits["testing_query"].labels.tolist() == [0, 2]
    assert splits["testing_gallery"].labels.tolist() == [0, 1, 2]


def test_validation_is_by_class_half_query_half_gallery(tmp_path):
    trees.in_shop(tmp_path / "in-shop", n_classes=12, n_images=4)
    splits = datasets.select("in-shop", trees.options(tmp_path, train_val_split=0.5))
    assert splits["training"].n_classes == 3 and len(splits["training"]) == 12
    query, gallery = splits["validation_query"], splits["validation_gallery"]
    assert query.labels.tolist() == gallery.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not set(query.paths) & set(gallery.paths)
    assert not set(query.class_names) & set(splits["training"].class_names)
    assert np.array_equal(splits["validation"].labels, np.repeat([0, 1, 2], 4))


def test_so_is_a_fold(tmp_path):
    trees.in_shop(tmp_path / "in-shop", n_classes=12, n_images=4)
    splits = datasets.select("in-shop", trees.options(tmp_path, val_folds=3, val_fold=2))
    assert splits["validation"].class_names == ["id_00000005", "id_00000006"]
    query, gallery = splits["validation_query"], splits["validation_gallery"]
    assert query.labels.tolist() == gallery.labels.tolist() == [0, 0, 1, 1]
    assert not set(query.paths) & set(gallery.paths)


ROW = "img/WOMEN/Dresses/id_00000001/01_1_front.jpg"
HEADER = "image_name item_id evaluation_status"


@pytest.mark.parametrize(("old", "new", "message"), [
    ("gallery", "galery", "evaluation_status 'galery' in line 16 of .*; accepted: train, "),
    ("24\n", "25\n", "line 1 of .* is '25'; expected: 24, the number of rows below the header"),
    ("24\n", "many\n", "line 1 of .* is 'many'; expected: 24"),
    ("24\n", "", f"line 2 of .* is '{ROW} .*'; expected: '{HEADER}' below the number of rows"),
    (HEADER + "\n", "", f"line 2 of .* is '{ROW} .*'; expected: '{HEADER}'"),
    ("item_id", "item id", "line 2 of .* is 'image_name item id evaluation_status'; expected: "),
])
def test_a_damaged_list_is_refused(tmp_path, old, new, message):
    folder = trees.in_shop(tmp_path / "in-shop")
    partition = folder / "Eval" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace(old, new))
    with pytest.raises(UserError, match="^--source_path: " + message):
        datasets.select("in-shop", trees.options(tmp_path))


@pytest.mark.parametrize("status", ["train", "query", "gallery"])
def test_a_path_that_stands_twice_is_refused(tmp_path, status):
    """Also as query and gallery, since nothing is excluded from the gallery."""
    folder = trees.in_shop(tmp_path / "in-shop")
    partition = folder / "Eval" / "list_eval_partition.txt"
    lines = partition.read_text().replace("24\n", "26\n", 1).splitlines()
    query = next(line for line in lines if line.endswith("query"))
    again = query.replace("img/", "./img//").replace("query", status)
    partition.write_text("\n".join([*lines, again, lines[2]]))
    with pytest.raises(UserError) as error:
        datasets.select("in-shop", trees.options(tmp_path))
    assert str(error.value) == (
        f"--source_path: {again.split()[0]!r} stands in line {lines.index(query) + 1} of "
        f"{str(partition)!r} and in line 27 of {str(partition)!r}; accepted: each path once, in "
        "one split (faults in all: 2, see --check_data)")


def test_hidden_files_are_skipped_and_count_as_rows(tmp_path):
    folder = trees.in_shop(tmp_path / "in-shop")
    partition = folder / "Eval" / "list_eval_partition.txt"
    hidden = ROW.replace("01_1", "._01_1") + " id_00000001 train\n\n"
    partition.write_text(partition.read_text().replace("24\n", "25\n", 1) + hidden)
    assert len(datasets.select("in-shop", trees.options(tmp_path))["training"]) == 12


@pytest.mark.parametrize("reason", ["Is a directory", pytest.param(
    "Permission denied", marks=pytest.mark.skipif(ROOT, reason="root may read every file"))])
def test_a_list_that_cannot_be_read_is_named_once(tmp_path, reason):
    table = trees.in_shop(tmp_path / "in-shop") / "Eval" / "list_eval_partition.txt"
    if reason == "Is a directory":
        table.unlink()
        table.mkdir()
    else:
        table.chmod(0)
    with pytest.raises(UserError) as error:
        datasets.select("in-shop", trees.options(tmp_path))
    assert str(error.value) == (f"--source_path: cannot read {str(table)!r}: {reason}; accepted: a "
                                "text file that you may read")
