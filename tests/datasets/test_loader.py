import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import datasets
from datasets import images
from datasets.images import decode
from datasets.loader import Loader
from tests import trees
from utilities.errors import UserError

ROOT = Path(__file__).parents[2]
FEATURES = ["discriminative", "selfsimilarity", "imrot"]


class Pairs:
    """A batch sampler: two batches of four that depend on the epoch."""

    def __len__(self):
        return 2

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for step in range(2):
            yield np.random.default_rng([self.epoch, step]).integers(0, 8, 4).tolist()


@pytest.fixture
def load(tmp_path):
    """load(split, sampler, **options) -> Loader over a small tree; closed after the test."""
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    loaders = []

    def make(split="training", sampler=None, **given):
        opt = trees.options(tmp_path, **given)
        loaders.append(Loader(datasets.select("cub200", opt)[split], opt, "cpu", sampler))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(x is y is None or torch.equal(x, y) for pair in pairs
               for x, y in zip(*pair, strict=True))


def test_pixels_do_not_depend_on_the_number_of_workers_or_the_cache(load):
    wanted = [list(load(sampler=Pairs(), diva_features=FEATURES).epoch(epoch)) for epoch in (0, 3)]
    assert not same(wanted[0], wanted[1])
    for given in ({"kernels": 1}, {"kernels": 2}, {"kernels": 2, "cache": "ram"}):
        loader = load(sampler=Pairs(), diva_features=FEATURES, **given)
        assert [same(loader.epoch(epoch), batches)
                for epoch, batches in zip((0, 3), wanted, strict=True)] == [True, True]
        assert same(loader.epoch(0), wanted[0])


@pytest.mark.parametrize("kernels", [0, 2])
def test_an_epoch_that_was_started_before_is_the_same(load, kernels):
    wanted = [list(load(sampler=Pairs()).epoch(epoch)) for epoch in range(3)]
    loader = load(sampler=Pairs(), kernels=kernels)
    loader.start(1)
    assert same(loader.epoch(1), wanted[1])
    loader.start(2)     # another one comes first
    assert same(loader.epoch(0), wanted[0])
    loader.start(1)
    loader.start(2)
    assert same(loader.epoch(2), wanted[2])
    loader.start(1)
    loader.close()
    assert same(loader.epoch(1), wanted[1])


def test_workers_read_a_started_epoch_while_nobody_asks(load, tmp_path, monkeypatch):
    loader, marker = load(sampler=Pairs(), kernels=1), tmp_path / "a batch was read"
    read = loader.dataset.batch
    monkeypatch.setattr(loader.dataset, "batch",
                        lambda *given, **more: marker.touch() or read(*given, **more))
    loader.start(1)
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marker.exists()


@pytest.mark.parametrize(("given", "kept", "n_images"), [
    ({}, ["training", "validation_query", "validation_gallery", "testing_query",
          "testing_gallery"], 48),
    ({"evaluate_only": True},
     ["validation_query", "validation_gallery", "testing_query", "testing_gallery"], 36),
    ({"evaluate_only": True, "train_metrics": True},
     ["training", "validation_query", "validation_gallery", "testing_query",
      "testing_gallery"], 48)])
def test_a_cache_in_memory_is_filled_at_once_with_what_loaders_read(tmp_path, capsys, given, kept,
                                                                   n_images):
    trees.in_shop(tmp_path / "in-shop", n_classes=12, n_images=4)
    opt = trees.options(tmp_path, cache="ram", train_val_split=0.5, **given)
    splits = datasets.select("in-shop", opt)
    for split in kept:
        Loader(splits[split], opt, "cpu")
    assert {name for name, split in splits.items() if split.images.pixels is not None} \
        == {*kept, *["evaluation", "evaluation_train"] * ("training" in kept)}
    said = capsys.readouterr().out
    assert said.count("--cache ram: ") == said.count(f"{n_images} decoded images need") == 1


def test_what_does_not_fit_into_memory_together_is_refused_before_it_is_read(tmp_path, monkeypatch):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    opt = trees.options(tmp_path, cache="ram")
    splits = datasets.select("cub200", opt)
    monkeypatch.setattr(images, "available_memory", lambda: 20 * 48 * 40 * 3 - 1)
    monkeypatch.setattr(images, "decode", lambda path: pytest.fail(f"decodes {path}"))
    with pytest.raises(UserError, match="--cache: 'ram' does not fit: 20 decoded images need"):
        Loader(splits["training"], opt, "cpu")


def test_without_a_sampler_every_image_comes_once_in_file_order(load):
    loader = load("testing", bs=4)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 3
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 5 + [1] * 5
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert same(loader.epoch(1), batches)


@pytest.mark.parametrize("arch", ["resnet50_frozen_normalize", "bninception_normalize"])
def test_images_are_normalised_as_the_backbone_wants_them(load, arch):
    loader = load("testing", arch=arch, crop_size=32)
    pixels = loader.dataset[0].images.numpy().astype(np.float64)
    image = next(loader.epoch(0)).images[0]
    if arch.startswith("bn"):
        mean, std = np.array([0.502, 0.4588, 0.4078]), 0.0039
    else:
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])[:, None, None]
    wanted = (pixels / 255 - mean[:, None, None]) / std
    if arch.startswith("bn"):
        wanted = wanted[::-1]       # blue first
    assert image.dtype == torch.float32
    assert np.abs(image.numpy() - wanted).max() < 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format(load, channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    batch = next(load(diva_features=FEATURES, channels_last=channels_last).epoch(0))
    for views in (batch.images, batch.second_views, batch.rotated_views):
        assert views.shape == (4, 3, 24, 24) and views.is_contiguous(memory_format=form)


@pytest.mark.parametrize("kernels", [0, 1])
def test_a_broken_file_is_named_in_one_line_also_from_a_worker(load, kernels):
    loader = load("testing", kernels=kernels)
    path = loader.dataset.paths[6]
    Path(path).write_bytes(Path(path).read_bytes()[:300])
    with pytest.raises(UserError) as error:
        list(loader.epoch(0))
    with pytest.raises(UserError) as wanted:
        decode(path)
    assert str(error.value) == str(wanted.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kernels", [0, 2])
def test_an_epoch_left_early_does_not_touch_the_next(load, kernels):
    loader = load(sampler=Pairs(), kernels=kernels)
    wanted = list(loader.epoch(1))
    left = loader.epoch(0)
    list(islice(left, 1))
    assert same(loader.epoch(1), wanted)


def test_workers_live_on_between_epochs_and_end_with_close(load):
    loader = load(sampler=Pairs(), kernels=2)
    first, second = ([worker.pid for worker in loader.source._iterator._workers]
                     for _ in (list(loader.epoch(0)), list(loader.epoch(1))))
    assert first == second and len(first) == 2
    loader.close()
    for pid in first:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(list(loader.epoch(0))) == 2


@pytest.mark.parametrize("kernels", [0, 2])
def test_the_global_random_state_is_left_alone(load, kernels):
    loader = load(sampler=Pairs(), kernels=kernels, diva_features=FEATURES)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader.epoch(0))
    list(loader.epoch(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_loader_works_inside_autocast_and_inference_mode(load):
    wanted = list(load("evaluation").epoch(0))
    with torch.inference_mode(), torch.autocast("cpu"):
        assert same(load("evaluation").epoch(0), wanted)


SCRIPT = """
import signal, sys, time
import datasets
from datasets.loader import Loader
from tests import trees
class Stopped(Exception):
    pass
def stop(*_):
    raise Stopped
signal.signal(signal.SIGTERM, stop)
opt = trees.options(sys.argv[1], kernels=2, bs=1)
loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
try:
    for epoch in range(10**9):
        for batch in loader.epoch(epoch):
            print(*(worker.pid for worker in loader.source._iterator._workers), flush=True)
except Stopped:
    sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_quietly_and_at_once(tmp_path, number):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    script = SCRIPT.replace("SIGTERM", signal.Signals(number).name)
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        begun = time.monotonic()
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143 and said == ""
        assert time.monotonic() - begun < 20
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
