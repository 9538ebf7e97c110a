"""Peak memory and time of a training step, with and without `--grad_cache_chunk`.

    python tests/benchmarks/bench_grad_cache.py [--sizes 32 64 128 256] [--chunk 16]

Four-feature DiVA on ResNet50 with fixed BatchNorm at 64 pixels, on the CPU. Every row is a process
of its own; memory is the peak above what it holds before its first step, and seconds are those of
the second step.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import runs
from tests.benchmarks.bench_evaluation import status

FEATURES = ("discriminative", "selfsimilarity", "shared", "intra")


def measure(size: int, chunk: int, rows) -> None:
    import torch

    from criteria import features
    from datasets import Batch

    with tempfile.TemporaryDirectory() as folder:
        training = runs.assembled(
            Path(folder), "--arch", "resnet50_frozen_normalize", "--diva_features", *FEATURES,
            "--crop_size", 64, "--resize", 64, "--embed_dim", 128, "--grad_cache_chunk", chunk)
        batch = Batch(torch.arange(size) % 4, torch.rand(size, 3, 64, 64), torch.arange(size),
                      torch.rand(size, 3, 64, 64), torch.zeros(size, dtype=torch.int64))
        before = status("VmRSS")
        for _ in range(2):
            start = time.perf_counter()
            step = features.forward(training.network, training.objective, batch)
            loss = sum(feature.weight * feature.loss(step) for feature in training.objective)
            training.scaling.backward(loss, training.optimiser)
        rows.put((status("VmHWM") - before, time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256],
                        help="images in a batch")
    parser.add_argument("--chunk", type=int, default=16, help="images in a chunk")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    chunks = f"MB, chunks of {options.chunk}"
    print(f"{'images':>8}{'MB':>8}{'seconds':>9}{chunks:>18}{'seconds':>9}")
    for size in options.sizes:
        cells = []
        for chunk in (0, options.chunk):
            rows = context.Queue()
            process = context.Process(target=measure, args=(size, chunk, rows))
            process.start()
            cells += rows.get()
            process.join()
        print(f"{size:>8}{cells[0]:>8.0f}{cells[1]:>9.2f}{cells[2]:>18.0f}{cells[3]:>9.2f}")


if __name__ == "__main__":
    main()
