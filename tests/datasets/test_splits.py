import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasets
from datasets.splits import evenly_spaced
from tests import trees
from utilities.errors import UserError


@given(st.integers(1, 300), st.floats(0.001, 1))
def test_evenly_spaced_keeps_the_share_and_spaces_evenly(n, share):
    kept = sorted(evenly_spaced(n, share))
    assert len(kept) == max(1, round(share * n))
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


def test_validation_by_class(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=8, n_images=2)
    splits = datasets.select("cub200", trees.options(
        tmp_path, train_val_split=0.5, train_val_split_by_class=True))
    assert splits["training"].class_names == ["002.Class_2", "004.Class_4"]
    assert splits["validation"].class_names == ["001.Class_1", "003.Class_3"]
    for name in ("training", "validation"):
        assert splits[name].labels.tolist() == [0, 0, 1, 1]


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
