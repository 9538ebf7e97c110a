import numpy as np
import pytest

import datasets
from tests import trees
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
    partition.write_text("\n".join(rows))
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


def test_an_unknown_status_is_refused(tmp_path):
    folder = trees.in_shop(tmp_path / "in-shop")
    partition = folder / "Eval" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("gallery", "galery"))
    with pytest.raises(UserError, match="status 'galery' in "):
        datasets.select("in-shop", trees.options(tmp_path))
