"""Images/s of the whole epoch loop against the bare bound, and of the data alone.

    python tests/benchmarks/bench_training.py [--cache none ram gpu] [--kernels 0 2]
        [--seconds 20] [flags of diva_main.py, which win over those below]

The bound is the two networks on one fixed batch: forward and backward of the network, forward of
the key network, same precision and memory format, nothing else. Without a GPU a ResNet18 on small
crops stands for the published run, which is measured where there is one (bf16, channels_last,
batch 112, four features). The images are JPEGs of 500 x 375, made for the purpose. For every
setting the loop, the bound and the loader alone are timed in turns; memory is the device's peak.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from PIL import Image

import diva_main
import parameters
from criteria import selfsimilarity
from criteria.features import endless
from tests import trees
from tests.benchmarks import timing
from utilities.logger import Logger

SIZE = (500, 375)
COMMON = ("--dataset", "pictures", "--not_pretrained", "--embed_dim", 128, "--plots", "none",
          "--diva_features", "discriminative", "selfsimilarity", "shared", "intra")
ON_GPU = ("--arch", "resnet50_frozen_normalize", "--bs", 112, "--precision", "bf16",
          "--channels_last", "--diva_moco_n_key_batches", 30)
ON_CPU = ("--arch", "resnet18_frozen_normalize", "--bs", 32, "--crop_size", 64,
          "--diva_moco_n_key_batches", 10)


def pictures(folder: Path, n_training: int) -> None:
    """Twice `n_training` JPEGs in 40 classes, about as large as photographs are (90 KB)."""
    random = np.random.default_rng(0)
    for i in range(2 * n_training):
        path = folder / "images" / f"{i % 40:02d}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = np.asarray(trees.picture(i, SIZE), np.float32)
        textured = smooth + random.normal(0, 12, smooth.shape[:2])[:, :, None]
        Image.fromarray(textured.clip(0, 255).astype(np.uint8)).save(path, quality=85)


class Bench:
    """A training assembled as `diva_main.py` does, taken apart into what is timed."""

    def __init__(self, words: list[str], folder: Path):
        opt = parameters.read_arguments(words)
        self.training = training = diva_main.Training(opt)
        training.record.logger = Logger(folder, plots="none")
        training.begin()
        self.batch = next(iter(training.loader.epoch(0)))
        self.key_network = next(feature.key_network for feature in training.objective
                                if isinstance(feature, selfsimilarity.Feature))
        self.n_images = opt.bs * len(training.loader)
        self.epochs = itertools.count(1)

    def loop(self) -> float:
        """Images/s of an epoch."""
        with contextlib.redirect_stdout(io.StringIO()):
            return self.n_images / timing.stopwatch(
                lambda: self.training.train_epoch(next(self.epochs)))

    def bound(self, steps: int) -> float:
        """Images/s of the two networks on one batch."""
        self.training.network.train()
        return len(self.batch.labels) * steps / timing.stopwatch(
            lambda: [self.networks() for _ in range(steps)])

    def networks(self) -> None:
        training = self.training
        training.optimiser.zero_grad(set_to_none=True)
        heads, _ = training.network(self.batch.images)
        with torch.inference_mode():
            self.key_network(self.batch.second_views)
        torch.stack([head.sum() for head in heads.values()]).sum().backward()

    def data(self) -> float:
        """Images/s of the loader, on the device, when nobody else computes."""
        batches = itertools.islice(endless(self.training.loader, next(self.epochs)),
                                   len(self.training.loader))
        return self.n_images / timing.stopwatch(lambda: list(map(len, batches)))


def measure(title: str, words: list[str], folder: Path, seconds: float) -> list[str]:
    """A row of the table."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(io.StringIO()):
        bench = Bench(words, folder)
    steps = len(bench.training.loader)
    bench.loop(), bench.bound(2)        # what comes first is slower
    rounds, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < 3:
        rounds.append((bench.data(), bench.loop(), bench.bound(steps)))
    bench.training.loader.close()
    data, loop, bound = map(statistics.median, zip(*rounds, strict=True))
    memory = (f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if torch.cuda.is_available()
              else "-")
    return [title, f"{data:.0f}", f"{loop:.1f}", f"{bound:.1f}", f"{100 * loop / bound:.0f} %",
            memory]


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cache", nargs="+", default=["none", "ram", *["gpu"] * gpu])
    parser.add_argument("--kernels", nargs="+", default=["8"] if gpu else ["0", "2"])
    parser.add_argument("--images", type=int, default=2240 if gpu else 320)
    parser.add_argument("--seconds", type=float, default=20, help="for each setting, about")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        pictures(Path(place) / "pictures", options.images)
        words = [*COMMON, *(ON_GPU if gpu else ON_CPU), "--source_path", place, *more]
        rows = [measure(f"--cache {cache} --kernels {kernels}",
                        [*map(str, words), "--cache", cache, "--kernels", kernels],
                        Path(place) / "logs", options.seconds)
                for cache in options.cache
                for kernels in (options.kernels if cache != "gpu" else ["0"])]
    timing.table([f"{timing.describe('cuda' if gpu else 'cpu')}", "data alone, images/s",
                  "loop, images/s", "bound, images/s", "loop of bound", "peak GB"], rows)


if __name__ == "__main__":
    main()
