import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision import transforms
from torchvision.transforms import functional

from datasets.transforms import (
    GRAYSCALE,
    N_UNIFORMS,
    Normalisation,
    Recipe,
    recolour,
    render,
    training_recipe,
)
from tests import trees

SIZES = [(48, 40), (41, 57), (100, 33), (32, 32), (37, 90)]
INTERPOLATION = transforms.InterpolationMode.BILINEAR


def rendered(recipe, image, uniforms):
    drawn = recipe.draw(uniforms, np.array([image.height]), np.array([image.width]))
    return render(image, recipe.crop, *drawn), drawn


@given(st.integers(1, 3000), st.integers(1, 3000),
       arrays(float, (1, N_UNIFORMS), elements=st.floats(0, 1, exclude_max=True)))
def test_every_crop_lies_inside_the_image(height, width, uniforms):
    for augmentation in ("base", "red"):
        recipe = training_recipe(augmentation, 224, 256)
        g, _ = recipe.draw(uniforms, np.array([height]), np.array([width]))
        assert g.top >= 0 and g.left >= 0 and g.height >= 1 and g.width >= 1
        assert g.top + g.height <= height and g.left + g.width <= width
        assert g.y >= 0 and g.y + 224 <= g.resized_height
        assert g.x >= 0 and g.x + 224 <= g.resized_width


def test_random_resized_crop_is_distributed_as_torchvisions():
    recipe, n = training_recipe("base", 224, 256), 4000
    uniforms = np.random.default_rng(0).random((n, N_UNIFORMS))
    ours = recipe.draw(uniforms, np.full(n, 300), np.full(n, 500))[0]
    ours = np.stack([ours.top, ours.left, ours.height, ours.width], 1)
    blank = torch.empty(3, 300, 500)
    theirs = np.array([transforms.RandomResizedCrop.get_params(blank, (0.08, 1), (3 / 4, 4 / 3))
                       for _ in range(n)])

    def moments(boxes):
        top, left, height, width = boxes.T
        area, ratio = height * width / 150000, np.log(width / height)
        return [x for y in (area, ratio, top + height / 2, left + width / 2)
                for x in (y.mean(), y.std())]

    scale = np.array([1, 1, 1, 1, 300, 300, 500, 500])
    assert np.abs((np.array(moments(ours)) - moments(theirs)) / scale).max() < 0.02


@pytest.mark.parametrize(("size", "box"), [((400, 20), (0, 186, 20, 27)),
                                           ((20, 400), (186, 0, 27, 20))])
def test_an_image_that_no_random_box_fits_gives_its_centre(size, box):
    uniforms = np.full((1, N_UNIFORMS), 0.99)     # the largest area, which is too high or too wide
    g, _ = training_recipe("base", 24, 32).draw(uniforms, np.array([size[1]]), np.array([size[0]]))
    assert (g.top, g.left, g.height, g.width) == box


@pytest.mark.parametrize("size", SIZES)
def test_training_views_are_torchvisions_pixels(size):
    image, crop = trees.picture(1, size), 24
    for seed in range(5):
        uniforms = np.random.default_rng(seed).random((1, N_UNIFORMS))
        view, (g, _) = rendered(training_recipe("base", crop, 32), image, uniforms)
        box = [int(side[0]) for side in (g.top, g.left, g.height, g.width)]
        wanted = functional.resized_crop(image, *box, [crop, crop], INTERPOLATION)
        wanted = functional.hflip(wanted) if g.flip[0] else wanted
        assert np.array_equal(view, wanted)
        view, (g, _) = rendered(training_recipe("red", crop, 32), image, uniforms)
        wanted = functional.crop(functional.resize(image, 32, INTERPOLATION), int(g.y[0]),
                                 int(g.x[0]), crop, crop)
        assert np.array_equal(view, functional.hflip(wanted) if g.flip[0] else wanted)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [24, 27, 32])
def test_evaluation_is_resize_and_centre_crop_and_draws_nothing(size, crop):
    image = trees.picture(2, size)
    wanted = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(crop)])(image)
    for seed in range(2):
        uniforms = np.random.default_rng(seed).random((1, N_UNIFORMS))
        view, _ = rendered(Recipe(crop, 32), image, uniforms)
        assert np.array_equal(view, wanted)


def test_flips_half_of_the_images_and_recolours_where_asked():
    uniforms = np.random.default_rng(0).random((2000, N_UNIFORMS))
    sides = np.full(2000, 40), np.full(2000, 48)
    for name, jitter in (("base", None), ("adv", 0.2), ("realistic", 0.4), ("red", None)):
        geometry, colour = training_recipe(name, 24, 32).draw(uniforms, *sides)
        assert abs(geometry.flip.mean() - 0.5) < 0.05
        assert (colour is None) == (jitter is None)
        if jitter:
            assert abs(colour.grey.mean() - GRAYSCALE) < 0.04
            low, high = colour.factors.min(0), colour.factors.max(0)
            assert np.allclose(low, [1 - jitter] * 3 + [-jitter], atol=0.01)
            assert np.allclose(high, [1 + jitter] * 3 + [jitter], atol=0.01)
            assert len(np.unique(colour.order, axis=0)) == 24
    assert not Recipe(24, 32).draw(uniforms, *sides)[0].flip.any()


def test_recolouring_is_torchvisions():
    changes = (functional.adjust_brightness, functional.adjust_contrast,
               functional.adjust_saturation, functional.adjust_hue)
    rng = np.random.default_rng(0)
    for seed in range(10):
        image = wanted = trees.picture(seed)
        grey, order = seed % 5 == 0, rng.permutation(4)
        factors = np.append(rng.uniform(0.6, 1.4, 3), rng.uniform(-0.4, 0.4))
        if grey:
            wanted = functional.rgb_to_grayscale(wanted, 3)
        for change in order:
            wanted = changes[change](wanted, factors[change])
        assert np.array_equal(recolour(image, grey, factors, order), wanted)


def test_normalisation_follows_the_backbone():
    assert Normalisation.of_backbone("resnet50").mean == (0.485, 0.456, 0.406)
    inception = Normalisation.of_backbone("bninception")
    assert inception.bgr and inception.std == (0.0039, 0.0039, 0.0039)
