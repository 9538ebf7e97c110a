import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import datasets
from datasets import device_cache, images
from datasets.device_cache import Axis, padded, turn_hue, turns
from datasets.loader import Loader
from datasets.transforms import N_UNIFORMS, training_recipe
from tests import trees
from utilities.errors import UserError

FEATURES = ["discriminative", "selfsimilarity", "imrot"]


@pytest.fixture
def tree(tmp_path):
    """Pictures of many sizes, below and above the crop's, every other one with noise."""
    rng = np.random.default_rng(0)
    for c in range(2):
        for i in range(10):
            width, height = (int(side) for side in rng.integers(30, 260, 2))
            pixels = np.asarray(trees.picture(10 * c + i, (width, height))).astype(float)
            pixels += rng.normal(0, 20 * (i % 2), pixels.shape)
            path = trees.write(tmp_path / "cub200" / "images" / f"{c + 1}.c" / f"{i}.png", 0)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path


def grey_levels(dataset, normalised):
    return normalised * 255 * torch.tensor(dataset.normalisation.std).view(3, 1, 1)


def both(tree, split, **given):
    """Batches of the same images, with their dataset: from the device's cache and from files."""
    batches = []
    for cache in ("gpu", "none"):
        opt = trees.options(tree, **({"bs": 10, "crop_size": 56, "resize": 64, "cache": cache,
                                      "diva_features": FEATURES} | given))
        dataset = datasets.select("cub200", opt)[split]
        loader = Loader(dataset, opt, "cpu")
        batches.append(list(loader.epoch(2)))
    return dataset, *batches


@pytest.mark.parametrize("split", ["training", "evaluation"])
@pytest.mark.parametrize("given", [
    {}, {"augmentation": "red"}, {"augmentation": "adv"}, {"realistic_augmentation": True},
    {"arch": "bninception"}], ids=str)
def test_views_agree_with_those_of_the_files_within_a_grey_level(tree, split, given):
    dataset, cached, read = both(tree, split, **given)
    assert len(cached) == len(read) == 1
    for name in ("labels", "indices", "rotations"):
        assert torch.equal(getattr(cached[0], name), getattr(read[0], name))
    for name in ("images", "second_views", "rotated_views"):
        ours, theirs = getattr(cached[0], name), getattr(read[0], name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == torch.float32 and ours.shape == theirs.shape
            away = grey_levels(dataset, ours - theirs).abs().mean((1, 2, 3))
            assert away.max() < 0.5         # of every image, not only of the average one


def test_half_precision_is_enough(tree):
    """What a GPU computes with."""
    opt = trees.options(tree, crop_size=56, resize=64, cache="gpu")
    dataset = datasets.select("cub200", opt)["training"]
    loader = Loader(dataset, opt, "cpu")
    wanted = next(loader.epoch(0)).images
    loader.source.cache.dtype = torch.float16
    away = grey_levels(dataset, next(loader.epoch(0)).images - wanted).abs()
    assert 0 < away.mean() < 0.1 and away.max() < 1.01


def test_a_batch_done_in_turns_is_the_same(tree, monkeypatch):
    opt = trees.options(tree, crop_size=56, resize=64, cache="gpu", bs=10)
    loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
    wanted = next(loader.epoch(0)).images
    monkeypatch.setattr(device_cache, "PIXELS_AT_ONCE", 3 * 96 * 96)
    assert torch.allclose(next(loader.epoch(0)).images, wanted, atol=1e-5)


def test_turns_are_all_rows_once_and_within_the_limit(monkeypatch):
    monkeypatch.setattr(device_cache, "PIXELS_AT_ONCE", 64 * 64 * 5)
    heights, widths = np.random.default_rng(0).integers(1, 200, (2, 100))
    parts = list(turns(heights, widths))
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    for part in parts:
        area = np.prod([-(-side[part].max() // 32) * 32 for side in (heights, widths)])
        assert len(part) == 1 or len(part) * area <= 64 * 64 * 5


def test_the_three_training_splits_share_one_cache_and_testing_has_none(tree, capsys):
    opt = trees.options(tree, cache="gpu")
    splits = datasets.select("cub200", opt)
    caches = [Loader(splits[name], opt, "cpu").source.cache
              for name in ("training", "evaluation", "evaluation_train")]
    assert caches[0] is caches[1] is caches[2]
    assert capsys.readouterr().out.count("--cache gpu: 10 decoded images need") == 1
    assert not hasattr(Loader(splits["testing"], opt, "cpu").source, "cache")


def test_a_training_set_that_does_not_fit_is_refused(tree, monkeypatch):
    monkeypatch.setattr(device_cache, "available_memory", lambda: 1000)
    opt = trees.options(tree, cache="gpu")
    with pytest.raises(UserError, match="--cache: 'gpu' does not fit"):
        Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
    assert images.available_memory() > 1000


def test_a_quarter_of_the_free_memory_stays_for_training(tree, monkeypatch, capsys):
    opt = trees.options(tree, cache="gpu")
    kept = datasets.select("cub200", opt)["training"]
    needed = int(kept.images.measure(1)[-1])
    free = -(-needed * 4 // 3)
    monkeypatch.setattr(device_cache, "available_memory", lambda: free - 4)
    with pytest.raises(UserError, match="GB of them stay for training; accepted"):
        Loader(kept, opt, "cpu")
    monkeypatch.setattr(device_cache, "available_memory", lambda: free + 4)
    Loader(kept, opt, "cpu")
    assert "GB are left for training\n" in capsys.readouterr().out


def test_a_batch_of_photographs_is_gathered_with_little_waste_in_few_turns():
    """112 images of 500x375: 11.6 M pixels are needed, 22 M are the whole batch in one gather."""
    heights, widths = np.full(112, 375), np.full(112, 500)
    uniforms = np.random.default_rng(0).random((112, N_UNIFORMS))
    g, _ = training_recipe("base", 224, 256).draw(uniforms, heights, widths)
    rows = Axis.of(g.top, g.height, g.resized_height, g.y, np.zeros(112, bool), 224).length
    columns = Axis.of(g.left, g.width, g.resized_width, g.x, g.flip, 224).length
    parts = list(turns(rows, columns))
    gathered = sum(len(part) * padded(rows[part].max()) * padded(columns[part].max())
                   for part in parts)
    assert gathered < 14.5e6 and len(parts) <= 5


def test_hue_turns_as_in_pil():
    from datasets.transforms import turn_hue as by_pil

    levels = np.linspace(0, 255, 12).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(36, 48, 3)
    for turn in (-0.4, -0.1, 0.0, 0.25, 0.39):
        wanted = np.asarray(by_pil(Image.fromarray(colours), turn)).astype(int)
        ours = turn_hue(torch.tensor(colours).permute(2, 0, 1)[None].float(),
                        torch.tensor([int(turn * 255)])[:, None, None])
        away = np.abs(ours[0].permute(1, 2, 0).numpy() - wanted)
        assert away.mean() < 0.1 and away.max() <= 6


class NothingWaits(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero")
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(tree):
    opt = trees.options(tree, cache="gpu", diva_features=FEATURES, augmentation="adv", bs=10)
    loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
    with NothingWaits():
        assert next(loader.epoch(0)).rotated_views is not None


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
