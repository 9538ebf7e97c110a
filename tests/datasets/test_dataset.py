import numpy as np
import pytest

import datasets
from datasets import dataset as dataset_module
from tests import trees


@pytest.fixture
def select(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=4)
    return lambda **given: datasets.select("cub200", trees.options(tmp_path, **given))


def test_views_are_made_for_the_features_that_read_them(select):
    for features, second, rotated in ((["discriminative", "shared", "dc"], False, False),
                                      (["selfsimilarity"], True, False),
                                      (["invariantspread"], True, False),
                                      (["discriminative", "imrot"], False, True)):
        splits = select(diva_features=features)
        item = splits["training"][5]
        assert (item.second_views is not None, item.rotated_views is not None) == (second, rotated)
        assert (item.labels, item.indices, item.rotations) == (1, 5, 1)
        for name in ("evaluation", "evaluation_train", "testing"):
            item = splits[name][5]
            assert item.second_views is None and item.rotated_views is None


def test_the_views_of_an_image_differ_and_evaluation_does_not(select):
    splits = select(diva_features=["selfsimilarity"])
    training = splits["training"]
    batch = training.batch([2, 2], epoch=0, step=0)
    views = [batch.images[0], batch.images[1], batch.second_views[0], batch.second_views[1]]
    assert all(not np.array_equal(views[i], views[j]) for i in range(4) for j in range(i))
    for change in ({"epoch": 1, "step": 0}, {"epoch": 0, "step": 1}):
        assert not np.array_equal(training.batch([2], **change).images, batch.images[:1])
    again = training.batch([2, 2], epoch=0, step=0)
    assert np.array_equal(again.images, batch.images)
    evaluation = splits["evaluation"]
    assert np.array_equal(evaluation.batch([2], epoch=0, step=0).images,
                          evaluation.batch([2], epoch=3, step=7).images)
    assert not np.array_equal(splits["evaluation_train"].batch([2], epoch=0, step=0).images,
                              splits["evaluation_train"].batch([2], epoch=1, step=0).images)


def test_the_seed_changes_the_views(select):
    first, second = (select(seed=seed)["training"].batch([0], epoch=0, step=0).images
                     for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_the_main_view_does_not_depend_on_the_others(select):
    alone = select()["training"].batch([0, 1], epoch=0, step=0)
    with_others = select(diva_features=["selfsimilarity", "imrot"])["training"].batch(
        [0, 1], epoch=0, step=0)
    assert np.array_equal(alone.images, with_others.images)


def test_realistic_augmentation_acts_on_its_view_alone_and_wins(select):
    features = ["selfsimilarity"]
    for given, main, second in (
            ({}, None, None), ({"augmentation": "adv"}, 0.2, 0.2),
            ({"realistic_augmentation": True}, None, 0.4),
            ({"realistic_main_augmentation": True, "augmentation": "adv"}, 0.4, 0.2),
            ({"realistic_main_augmentation": True, "augmentation": "red"}, 0.4, None)):
        splits = select(diva_features=features, **given)
        views = splits["training"].views
        assert (views.main.jitter, views.second.jitter) == (main, second)
        assert splits["evaluation_train"].views.main == views.main
        assert splits["testing"].views.main == dataset_module.Recipe(24, 32)


def test_rotated_views_are_exact_quarter_turns_without_black_corners(select):
    training = select(diva_features=["imrot"], crop_size=32)["training"]
    # Crop and resized side are equal and so is the image: the crop can only be the whole image.
    for path in training.paths[:4]:
        trees.picture(1, (32, 32)).save(path, quality=95)
    views = training.batch([0, 1, 2, 3], epoch=0, step=0).rotated_views.permute(0, 2, 3, 1).numpy()
    for turns in range(4):
        assert np.array_equal(views[turns], np.rot90(views[0], turns))
    assert training.batch([0, 1, 2, 3], epoch=0, step=0).rotations.tolist() == [0, 1, 2, 3]


def test_an_image_is_decoded_once_for_all_views(select, monkeypatch):
    training = select(diva_features=["selfsimilarity", "imrot"])["training"]
    decoded, decode = [], dataset_module.Images.__getitem__
    monkeypatch.setattr(dataset_module.Images, "__getitem__",
                        lambda self, index: decoded.append(index) or decode(self, index))
    training.batch([3, 1, 2], epoch=0, step=0)
    assert decoded == [3, 1, 2]


def test_big_crops_are_big_in_evaluation_too(select):
    splits = select(augmentation="big", crop_size=32)
    assert splits["training"][0].images.shape == splits["testing"][0].images.shape == (3, 32, 32)
