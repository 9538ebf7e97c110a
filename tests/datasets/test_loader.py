import errno
import multiprocessing
import os
import random
import resource
import shutil
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
from datasets import cache
from datasets.images import decode
from datasets.loader import Loader
from datasets.workers import allow_open_files, explain_lost_workers
from tests import trees
from utilities.errors import RunError, UserError

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
    loader, marker = load(sampler=Pairs(), kernels=1), tmp_path / "an image was read"
    read = loader.dataset.open_image
    monkeypatch.setattr(loader.dataset, "open_image", lambda path: marker.touch() or read(path))
    loader.start(1)
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marker.exists()


@pytest.mark.parametrize(("given", "n_images"), [
    ({}, 48), ({"evaluate_only": True}, 36), ({"evaluate_only": True, "train_metrics": True}, 48)])
def test_a_cache_in_memory_is_filled_at_once_with_what_loaders_read(tmp_path, capsys, given,
                                                                   n_images):
    """Also where query and gallery are parts of a union."""
    trees.in_shop(tmp_path / "in-shop", n_classes=12, n_images=4)
    opt = trees.options(tmp_path, cache="ram", train_val_split=0.5, **given)
    splits = datasets.select("in-shop", opt)
    said = capsys.readouterr().out
    assert said.count("--cache ram: ") == said.count(f"{n_images} decoded images need") == 1
    wanted = {name: list(Loader(split, opt, "cpu").epoch(0)) for name, split in splits.items()}
    for split in ("validation_query", "validation_gallery", "testing_query", "testing_gallery",
                  *["training", "evaluation", "evaluation_train"] * (n_images == 48)):
        for path in splits[split].paths:
            os.path.exists(path) and os.remove(path)
        assert same(Loader(splits[split], opt, "cpu").epoch(0), wanted[split])


def test_what_does_not_fit_into_memory_together_is_refused_before_it_is_read(tmp_path, monkeypatch):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    opt = trees.options(tmp_path, cache="ram")
    monkeypatch.setattr(cache, "available_memory", lambda: 20 * 48 * 40 * 3 - 1)
    monkeypatch.setattr(cache, "decode", lambda path: pytest.fail(f"decodes {path}"))
    with pytest.raises(UserError, match="--cache: 'ram' does not fit: 20 decoded images need"):
        datasets.select("cub200", opt)


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
    pixels = loader.dataset[0, 0].images.numpy().astype(np.float64)
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


def workers() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_workers_live_on_between_epochs_and_end_with_close(load):
    before = workers()
    loader = load(sampler=Pairs(), kernels=2)
    first, second = (workers() - before for _ in (list(loader.epoch(0)), list(loader.epoch(1))))
    assert first == second and len(first) == 2
    loader.close()
    assert all(map(ended, first))
    assert len(list(loader.epoch(0))) == 2


def test_workers_end_with_close_also_in_the_middle_of_an_epoch(load):
    before = workers()
    loader = load(sampler=Pairs(), kernels=2)
    loader.start(1)
    next(loader.epoch(1))
    started = workers() - before
    loader.close()
    assert len(started) == 2 and all(map(ended, started))


@pytest.mark.parametrize("kernels", [0, 2])
def test_the_global_random_state_is_left_alone(load, kernels):
    loader = load(sampler=Pairs(), kernels=kernels, diva_features=FEATURES)
    before, before_python = ((torch.get_rng_state(), np.random.get_state()[1].copy()),
                             random.getstate())
    list(loader.epoch(0))
    list(loader.epoch(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before_python


def test_a_loader_works_inside_autocast_and_inference_mode(load):
    wanted = list(load("evaluation").epoch(0))
    with torch.inference_mode(), torch.autocast("cpu"):
        assert same(load("evaluation").epoch(0), wanted)


SCRIPT = """
import multiprocessing, signal, sys, time
import datasets
from datasets.loader import Loader
from datasets.workers import explain_lost_workers
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
            print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
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
    assert len(pids) == 2 and all(map(ended, pids))


# A loader is neither closed nor let go: the traceback of an error that nobody catches refers to it.
LEFT_OPEN = """
import multiprocessing, sys
import datasets
from datasets.loader import Loader
from datasets.workers import explain_lost_workers
from tests import trees
opt = trees.options(sys.argv[1], kernels=2, bs=1)
loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
for batch in loader.epoch(0):
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    assert 0, "the program ends"
"""


def test_an_error_that_nobody_catches_ends_the_program_and_its_workers(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN, tmp_path], cwd=ROOT, text=True,
                          capture_output=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == 1 and done.stderr.endswith("AssertionError: the program ends\n")
    assert len(pids) == 2 and all(map(ended, pids))


@pytest.mark.parametrize(("message", "told"), [     # torch's own words
    ("DataLoader worker (pid 7) is killed by signal: Killed. ", "memory runs out; fewer of them"),
    ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "exited unexpectedly;"),
    ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
     "workers are out of shared memory. Please try to raise your shared memory limit.", "/dev/shm"),
    ("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
     "last):\n  ...\nRuntimeError: unable to allocate shared memory(shm) for file "
     "</torch_7_1_0>: No space left on device (28)\n", "/dev/shm"),
    ("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
     "last):\n  ...\nRuntimeError: unable to write to file </torch_7_1_0>: No space left on "
     "device (28)\n", "/dev/shm"),
    ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", "Segmentation fault")])
def test_a_lost_worker_is_told_in_one_line_with_what_helps(message, told):
    with pytest.raises(RunError) as error, explain_lost_workers():
        raise RuntimeError(message)
    text = str(error.value)
    assert text.startswith("a process that loads images has ended: ") and "\n" not in text
    assert told in text
    in_shared_memory = told == "/dev/shm"
    assert ("--shm-size" in text and "--kernels 0" in text) == in_shared_memory
    assert ("fewer of them, by --kernels" in text) == ("fewer" in told)


@pytest.mark.parametrize("error", [
    OSError(errno.EMFILE, "Too many open files"), OSError("Caught OSError in DataLoader worker "
    "process 0.\n  ...\nOSError: [Errno 24] Too many open files: 'a.jpg'\n"),
    RuntimeError("unable to open shared memory object </torch_7> in read-write mode: Too many open "
                 "files (24)"), RuntimeError("received 0 items of ancdata")])
def test_too_many_open_files_are_told_in_one_line_with_what_helps(error):
    with pytest.raises(RunError) as told, explain_lost_workers():
        raise error
    assert str(told.value) == ("too many files are open at once; allow more by `ulimit -n`, or use "
                               "fewer --kernels")


def test_workers_get_as_many_open_files_as_the_system_allows(monkeypatch):
    limits = [(256, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    allow_open_files(8)
    assert limits == [(256, 1000), (1000, 1000)]
    limits.append((50, 70))
    with pytest.raises(UserError, match=r"^--kernels: 8 processes that load images need more open "
                       r"files than the 70 that `ulimit -Hn` allows; accepted: a higher limit"):
        allow_open_files(8)


@pytest.mark.parametrize("message", [
    "CUDA error: out of memory", "Caught RuntimeError in DataLoader worker process 0.\nOriginal "
    "Traceback (most recent call last):\n  ...\nRuntimeError: a mistake in the program"])
def test_other_errors_are_left_as_they_are(message):
    with pytest.raises(RuntimeError, match=message[-10:]) as error, explain_lost_workers():
        raise RuntimeError(message)
    assert not isinstance(error.value, RunError)


NO_ROOM = """
import sys
import datasets
from datasets.loader import Loader
from datasets.workers import explain_lost_workers
from tests import trees
from utilities.errors import RunError
opt = trees.options(sys.argv[1], kernels=1, bs=8, crop_size=256, resize=256)
loader = Loader(datasets.select("cub200", opt)["training"], opt, "cpu")
try:
    with explain_lost_workers():
        list(loader.epoch(0))
except RunError as error:
    print(error)
"""
UNSHARE = ["unshare", "--map-root-user", "--mount", "sh", "-c",
           'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]


@pytest.mark.skipif(not shutil.which("unshare") or subprocess.run(
    [*UNSHARE, "true"], capture_output=True).returncode, reason="needs a /dev/shm of its own")
def test_a_full_shared_memory_is_named(tmp_path):
    """A batch takes 1.5 MB, /dev/shm has 1 MB."""
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=5)
    done = subprocess.run([*UNSHARE, sys.executable, "-c", NO_ROOM, tmp_path], cwd=ROOT, text=True,
                          capture_output=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "/dev/shm, of 1 MB here, and found no room" in done.stdout, done.stderr
    assert "--shm-size" in done.stdout and "--kernels 0" in done.stdout
