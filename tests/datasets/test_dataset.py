import numpy as np
import pytest
import torch

import datasets
from datasets.dataset import collate
from datasets.loader import Loader
from tests import trees

VIEWS = ("images", "second_views", "rotated_views")


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
        item = splits["training"][5, 0]
        assert (item.second_views is not None, item.rotated_views is not None) == (second, rotated)
        assert (item.labels, item.indices, item.rotations) == (1, 5, 1)
        assert {item.labels.dtype, item.indices.dtype, item.rotations.dtype} == {torch.int64}
        assert item.images.shape == (3, 24, 24) and item.images.dtype == torch.uint8
        for name in ("evaluation", "evaluation_train", "testing"):
            item = splits[name][5, 0]
            assert item.second_views is None and item.rotated_views is None


def test_the_views_of_an_image_differ_and_evaluation_does_not(select):
    splits = select(diva_features=["selfsimilarity"])
    first, second = (splits["training"][2, seed] for seed in (1, 2))
    views = [first.images, first.second_views, second.images, second.second_views]
    assert all(not torch.equal(views[i], views[j]) for i in range(4) for j in range(i))
    again = splits["training"][2, 1]
    assert torch.equal(again.images, first.images)
    assert torch.equal(again.second_views, first.second_views)
    for name, same in (("evaluation", True), ("evaluation_train", False)):
        assert torch.equal(splits[name][2, 1].images, splits[name][2, 2].images) == same


@pytest.mark.parametrize("features", [
    ["selfsimilarity"], ["imrot"], ["selfsimilarity", "imrot"]], ids=" ".join)
def test_no_view_depends_on_whether_the_others_are_made(select, features):
    everything = select(diva_features=["selfsimilarity", "imrot"])["training"][3, 9]
    some = select(diva_features=features)["training"][3, 9]
    for name in VIEWS:
        if getattr(some, name) is not None:
            assert torch.equal(getattr(some, name), getattr(everything, name))


@pytest.mark.parametrize(("given", "main_changes", "second_changes"), [
    ({"augmentation": "adv"}, True, True),
    ({"realistic_augmentation": True}, False, True),
    ({"realistic_main_augmentation": True}, True, False)])
def test_an_augmentation_acts_on_the_views_that_it_names(select, given, main_changes,
                                                         second_changes):
    plain, changed = (select(diva_features=["selfsimilarity"], **more)["training"]
                      for more in ({}, given))
    pairs = [(plain[i, i], changed[i, i]) for i in range(4)]
    assert main_changes != all(torch.equal(a.images, b.images) for a, b in pairs)
    assert second_changes != all(torch.equal(a.second_views, b.second_views) for a, b in pairs)


def test_realistic_main_augmentation_wins_and_training_images_are_embedded_by_it(select):
    given = {"realistic_main_augmentation": True, "diva_features": ["selfsimilarity"]}
    alone, with_red = select(**given), select(augmentation="red", **given)
    for split in ("training", "evaluation_train"):
        for seed in range(3):
            assert torch.equal(alone[split][1, seed].images, with_red[split][1, seed].images)
            assert torch.equal(alone["training"][1, seed].images,
                               alone["evaluation_train"][1, seed].images)
    assert torch.equal(alone["testing"][0, 0].images, select()["testing"][0, 0].images)


def test_rotated_views_are_exact_quarter_turns_without_black_corners(select, tmp_path):
    opt = trees.options(tmp_path, diva_features=["imrot"], crop_size=32)
    training = select(diva_features=["imrot"], crop_size=32)["training"]
    # Crop and resized side are equal and so is the image: the crop can only be the whole image.
    for path in training.paths[:4]:
        trees.picture(1, (32, 32)).save(path, quality=95)
    batch = next(Loader(training, opt, "cpu").epoch(0))
    views = batch.rotated_views.permute(0, 2, 3, 1).numpy()
    for turns in range(4):
        assert np.array_equal(views[turns], np.rot90(views[0], turns))
    assert batch.rotations.tolist() == [0, 1, 2, 3]


def test_an_image_is_decoded_once_for_all_views(select):
    training = select(diva_features=["selfsimilarity", "imrot"])["training"]
    opened, open_image = [], training.open_image
    training.open_image = lambda path: opened.append(path) or open_image(path)
    for index in (3, 1, 2):
        training[index, 0]
    assert opened == [training.paths[index] for index in (3, 1, 2)]


def test_big_crops_are_big_in_evaluation_too(select):
    splits = select(augmentation="big", crop_size=32)
    assert splits["training"][0, 0].images.shape == splits["testing"][0, 0].images.shape
    assert splits["training"][0, 0].images.shape == (3, 32, 32)


def test_a_batch_stacks_the_items(select):
    training = select(diva_features=["selfsimilarity"])["training"]
    items = [training[index, seed] for index, seed in ((3, 1), (0, 2), (3, 3))]
    batch = collate(items)
    assert batch.indices.tolist() == [3, 0, 3] and batch.labels.tolist() == [0, 0, 0]
    assert batch.rotations.tolist() == [3, 0, 3] and batch.rotated_views is None
    for name in VIEWS[:2]:
        for row, item in zip(getattr(batch, name), items, strict=True):
            assert torch.equal(row, getattr(item, name))
