import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import architectures
import datasets
from architectures import Inputs
from datasets import cache, device_cache
from datasets.dataset import collate
from datasets.loader import Loader
from tests import trees
from utilities.errors import UserError

FEATURES = ["discriminative", "selfsimilarity", "imrot"]


@pytest.fixture
def tree(tmp_path):
    """Pictures of many sizes, below and above the crop's, every other one with noise."""
    rng = np.random.default_rng(0)
    for c in range(4):
        for i in range(5):
            width, height = (int(side) for side in rng.integers(30, 260, 2))
            pixels = np.asarray(trees.picture(5 * c + i, (width, height))).astype(float)
            pixels += rng.normal(0, 20 * (i % 2), pixels.shape)
            path = trees.write(tmp_path / "cub200" / "images" / f"{c + 1}.c" / f"{i}.png", 0)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path


def grey_levels(dataset, normalised):
    return normalised * 255 * torch.tensor(dataset.inputs.std).view(3, 1, 1)


def both(tree, split, **given):
    """Batches of the same images, with their dataset: from the device's cache and from files."""
    batches = []
    for kind in ("gpu", "none"):
        opt = trees.options(tree, **({"bs": 10, "crop_size": 56, "resize": 64, "cache": kind,
                                      "diva_features": FEATURES} | given))
        dataset = datasets.select("cub200", opt)[split]
        loader = Loader(dataset, opt, "cpu")
        batches.append(list(loader.epoch(2)))
    return dataset, *batches


@pytest.fixture
def bicubic(monkeypatch):
    """A backbone that wants images to be resized so, without timm."""
    monkeypatch.setitem(architectures.INPUTS, "resnet34", Inputs(interpolation="bicubic"))


@pytest.mark.usefixtures("bicubic")
@pytest.mark.parametrize("split", ["training", "evaluation"])
@pytest.mark.parametrize(("given", "coloured"), [
    ({}, ()), ({"augmentation": "red"}, ()), ({"arch": "bninception"}, ()),
    ({"arch": "resnet34"}, ()), ({"arch": "resnet34", "augmentation": "red"}, ()),
    ({"augmentation": "adv"}, ("images", "second_views")),
    ({"realistic_augmentation": True}, ("second_views",))], ids=str)
def test_views_agree_with_those_of_the_files_within_rounding(tree, split, given, coloured):
    dataset, cached, read = both(tree, split, **given)
    assert len(cached) == len(read) == 1
    for name in ("labels", "indices", "rotations"):
        assert torch.equal(getattr(cached[0], name), getattr(read[0], name))
    for name in ("images", "second_views", "rotated_views"):
        views, wanted = getattr(cached[0], name), getattr(read[0], name)
        assert (views is None) == (wanted is None)
        if views is not None:
            assert views.dtype == torch.float32 and views.shape == wanted.shape
            away = grey_levels(dataset, views - wanted).abs().mean((1, 2, 3))
            # Of every image, not only of the average one. PIL turns hues in 256 steps.
            assert away.max() < (3 if name in coloured else 0.5)


def test_half_precision_is_enough(tree):
    """What a GPU computes with."""
    opt = trees.options(tree, crop_size=56, resize=64, cache="gpu")
    dataset = datasets.select("cub200", opt)["training"]
    loader = Loader(dataset, opt, "cpu")
    wanted = next(loader.epoch(0)).images
    loader.cache.dtype = torch.float16
    away = grey_levels(dataset, next(loader.epoch(0)).images - wanted).abs()
    assert 0 < away.mean() < 0.1 and away.max() < 1.01


def test_a_batch_of_several_products_is_the_same(tree, monkeypatch):
    opt = trees.options(tree, crop_size=56, resize=64, cache="gpu", bs=10)
    loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
    wanted = next(loader.epoch(0)).images
    monkeypatch.setattr(device_cache, "PIXELS_AT_ONCE", 3 * 96 * 96)
    away = grey_levels(loader.dataset, next(loader.epoch(0)).images - wanted).abs()
    assert away.max() < 1.01 and away.mean() < 0.01


def test_the_three_training_splits_share_one_cache_and_testing_has_none(tree, capsys):
    opt = trees.options(tree, cache="gpu")
    splits = datasets.select("cub200", opt)
    caches = [Loader(splits[name], opt, "cpu").cache
              for name in ("training", "evaluation", "evaluation_train")]
    assert caches[0] is caches[1] is caches[2]
    assert capsys.readouterr().out.count("--cache gpu: 10 decoded images need") == 1
    assert Loader(splits["testing"], opt, "cpu").cache is None


@pytest.mark.parametrize("kernels", [1, 2])
def test_the_number_of_workers_does_not_change_the_views(tree, kernels):
    batches = []
    for n in (0, kernels):
        opt = trees.options(tree, cache="gpu", diva_features=FEATURES, augmentation="adv",
                            kernels=n)
        loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
        batches.append(next(loader.epoch(1)))
        loader.close()
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one, other)


def test_a_training_set_that_does_not_fit_is_refused(tree, monkeypatch):
    monkeypatch.setattr(device_cache, "available_memory", lambda: 1000)
    opt = trees.options(tree, cache="gpu")
    with pytest.raises(UserError, match="--cache: 'gpu' does not fit"):
        Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
    assert cache.available_memory() > 1000


def test_a_quarter_of_the_free_memory_stays_for_training(tree, monkeypatch, capsys):
    opt = trees.options(tree, cache="gpu")
    kept = datasets.select("cub200", opt)["training"]
    needed = sum(3 * cache.area(path) for path in kept.paths)
    free = -(-needed * 4 // 3)
    monkeypatch.setattr(device_cache, "available_memory", lambda: free - 4)
    with pytest.raises(UserError, match="GB of them stay for training; accepted"):
        Loader(kept, opt, "cpu")
    monkeypatch.setattr(device_cache, "available_memory", lambda: free + 4)
    Loader(kept, opt, "cpu")
    assert "GB are left for training\n" in capsys.readouterr().out


class NothingWaits(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero")
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(tree):
    opt = trees.options(tree, cache="gpu", diva_features=FEATURES, augmentation="adv", bs=10)
    dataset = datasets.select("cub200", opt)["training"]
    kept = Loader(dataset, opt, "cpu").cache
    drawn = collate([kept.drawing(dataset)[index, index] for index in range(10)])
    with NothingWaits():
        assert kept.render(drawn, dataset.transforms).rotated_views is not None


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_for_it_and_views_agree(tree):
    opt = trees.options(tree, crop_size=56, resize=64, bs=10, diva_features=FEATURES)
    dataset = datasets.select("cub200", opt)["training"]
    wanted = next(Loader(dataset, opt, "cpu").epoch(0))
    opt.cache = "gpu"
    loader = Loader(dataset, opt, "cuda")
    next(loader.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = next(loader.epoch(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name in ("images", "second_views", "rotated_views"):
        away = grey_levels(dataset, getattr(batch, name).cpu() - getattr(wanted, name)).abs()
        assert away.mean() < 1
