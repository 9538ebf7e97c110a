import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import architectures
from datasets.transforms import (
    GRAYSCALE,
    augment,
    evaluation_transform,
    rotated_transform,
    training_transform,
)
from tests import trees

SIZES = [(48, 40), (41, 57), (100, 33), (32, 32), (37, 90)]
NAMES = ["base", "adv", "big", "red", "realistic"]


def pixels(image) -> np.ndarray:
    """(3, H, W) uint8."""
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [*SIZES, (1, 1), (300, 2), (2, 300)])
def test_a_training_view_is_a_square_of_bytes_whatever_the_images_size(name, size):
    for seed in range(3):
        view = augment(training_transform(name, 24, 32), trees.picture(1, size), seed)
        assert view.shape == (3, 24, 24) and view.dtype == torch.uint8


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [24, 27, 32])
@pytest.mark.parametrize("by", ["bilinear", "bicubic"])
def test_evaluation_resizes_the_short_side_takes_the_centre_and_draws_nothing(size, crop, by):
    image, short = trees.picture(2, size), min(size)
    sides = [32 * side // short for side in size]
    left, top = (round((side - crop) / 2) for side in sides)
    wanted = image.resize(sides, Image.Resampling[by.upper()]).crop(
        (left, top, left + crop, top + crop))
    for seed in range(2):
        view = augment(evaluation_transform(crop, 32, by), image, seed)
        assert np.array_equal(view, pixels(wanted))


@pytest.mark.parametrize("size", [(400, 2), (2, 401), (331, 30), (31, 350), (300, 1), (999, 60)])
@pytest.mark.parametrize("by", ["bilinear", "bicubic"])
def test_a_long_image_is_cut_before_it_is_enlarged_to_the_same_pixels(size, by, monkeypatch):
    noise = np.random.default_rng(5).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    transforms = (evaluation_transform(24, 32, by), rotated_transform(25, 32, by),
                  training_transform("red", 32, 40, by))
    wanted = [[augment(v2.Compose(transform.transforms), image, seed) for seed in range(4)]
              for transform in transforms]
    if min(size) < 32:
        monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("resized whole"))
    for transform, views in zip(transforms, wanted, strict=True):
        assert all(torch.equal(augment(transform, image, seed), view)
                   for seed, view in enumerate(views))


def test_an_image_of_20000_pixels_by_2_is_never_resized_whole(monkeypatch):
    """It would take 2.6 GB."""
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("resized whole"))
    for size in ((20000, 2), (2, 20000)):
        for transform in (evaluation_transform(224, 256), training_transform("red", 224, 256)):
            assert augment(transform, Image.new("RGB", size), 1).shape == (3, 224, 224)


@pytest.mark.parametrize("name", NAMES)
def test_training_views_are_resized_by_the_interpolation_that_is_asked_for(name):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    views = {by: augment(training_transform(name, 24, 32, by), image, 1).float()
             for by in ("bilinear", "bicubic")}
    assert torch.equal(views["bilinear"], augment(training_transform(name, 24, 32), image, 1))
    assert views["bicubic"].std() > 1.02 * views["bilinear"].std()      # it is sharper
    assert torch.corrcoef(torch.stack([*views.values()]).flatten(1))[0, 1] > 0.8    # of one box


def test_a_view_follows_from_its_seed_alone():
    image = trees.picture(3)
    for name in NAMES:
        transform = training_transform(name, 24, 32)
        wanted = [augment(transform, image, seed) for seed in (1, 2)]
        torch.rand(5), np.random.rand(5), random.random()
        assert torch.equal(augment(transform, image, 1), wanted[0])
        assert not torch.equal(*wanted)


@pytest.mark.parametrize("name", NAMES)
def test_nobodys_random_numbers_are_drawn(name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    python_state = random.getstate()
    augment(training_transform(name, 24, 32), trees.picture(4), 7)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state


def test_a_failed_view_leaves_the_generator_as_it_was():
    before = torch.get_rng_state()
    with pytest.raises(ValueError):
        augment(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(64)]), trees.picture(4), 7)
    assert torch.equal(torch.get_rng_state(), before)


def ramp(size=(80, 60)) -> Image.Image:
    """Red tells the column, green the row."""
    columns = np.linspace(0, 255, size[0]).round()
    rows = np.linspace(0, 255, size[1]).round()
    red, green = np.meshgrid(columns, rows)
    return Image.fromarray(np.stack([red, green, 0 * red], -1).astype(np.uint8))


def shares(view) -> tuple[float, float, bool]:
    """Of a view of `ramp`: the shares of width and height that it shows, and whether mirrored."""
    width, height = ((side[-1] - side[0]) / 255 for side in
                     (view[0].float().mean(0), view[1].float().mean(1)))
    return abs(float(width)), float(height), float(width) < 0


def test_base_takes_8_to_100_percent_of_the_area_and_mirrors_half():
    transform, image = training_transform("base", 24, 32), ramp()
    width, height, mirrored = np.array(
        [shares(augment(transform, image, seed)) for seed in range(600)]).T
    area = width * height
    assert area.min() > 0.04 and area.min() < 0.12 and area.max() > 0.85
    # Uniform up to what does not fit; a view ends half a target pixel inside its box.
    assert 0.35 < area.mean() < 0.55
    assert 0.42 < mirrored.mean() < 0.58
    ratio = width / height * 80 / 60
    assert 0.7 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.45


def test_red_shows_the_crops_share_of_the_resized_image_and_mirrors_half():
    transform, image = training_transform("red", 24, 32), ramp((64, 64))
    width, height, mirrored = np.array(
        [shares(augment(transform, image, seed)) for seed in range(300)]).T
    assert np.abs(width - 0.72).max() < 0.06 and np.abs(height - 0.72).max() < 0.06
    assert 0.4 < mirrored.mean() < 0.6


def test_the_square_to_be_turned_is_neither_mirrored_nor_coloured():
    for seed in range(20):
        width, height, mirrored = shares(augment(rotated_transform(24, 32), ramp((64, 64)), seed))
        assert abs(width - 0.72) < 0.06 and abs(height - 0.72) < 0.06 and not mirrored


@pytest.mark.parametrize(("name", "strength"), [
    ("base", 0), ("big", 0), ("red", 0), ("adv", 0.2), ("realistic", 0.4)])
def test_colours_change_by_the_strength_of_the_augmentation(name, strength):
    """A grey image has no hue, saturation or contrast: its brightness alone changes."""
    transform, image = training_transform(name, 24, 32), Image.new("RGB", (40, 40), (100,) * 3)
    levels = np.array([int(augment(transform, image, seed)[0, 0, 0]) for seed in range(400)])
    assert abs(levels.min() - 100 * (1 - strength)) <= 2 * (strength > 0)
    assert abs(levels.max() - 100 * (1 + strength)) <= 2 * (strength > 0)


@pytest.mark.parametrize(("name", "share"), [("base", 0), ("adv", GRAYSCALE),
                                             ("realistic", GRAYSCALE)])
def test_a_fifth_of_the_coloured_augmentations_is_grey(name, share):
    transform, image = training_transform(name, 24, 32), Image.new("RGB", (40, 40), (200, 60, 60))
    views = [augment(transform, image, seed).int() for seed in range(500)]
    grey = np.mean([int((view.amax(0) - view.amin(0)).max()) == 0 for view in views])
    assert abs(grey - share) <= 0.05 * (share > 0)


def test_normalisation_follows_the_backbone():
    assert architectures.inputs("resnet50_frozen").mean == (0.485, 0.456, 0.406)
    inception = architectures.inputs("bninception_normalize")
    assert inception.bgr and inception.std == (0.0039, 0.0039, 0.0039)
    assert (inception.crop, architectures.inputs("googlenet").crop) == (227, 227)
