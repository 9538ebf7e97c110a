"""Seconds to build, reuse and renew the index of a gallery, and to search in it.

    python tests/benchmarks/bench_search.py [--images 20000] [--factory IVF128,PQ32]

Small JPEG files and an untrained ResNet18 at 32 pixels, on the CPU: what the index itself costs
beside reading and embedding, which a larger network makes longer.
"""

import argparse
import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import architectures
import parameters
from datasets import pictures
from evaluation import gallery
from evaluation.embed import of_pictures
from tests import trees
from tests.benchmarks import timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="images in the gallery")
    parser.add_argument("--factory", default="IVF128,PQ32", help="a compressed index")
    given = parser.parse_args()
    opt = parameters.read_arguments(["--arch", "resnet18_normalize", "--not_pretrained",
                                     "--crop_size", "32", "--embed_dim", "64", "--bs", "64"])
    network = architectures.select(opt.arch, opt).eval()
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place) / "gallery", Path(place) / "index.npz"
        for i in range(given.images):
            trees.write(folder / f"{i // 500:03d}" / f"{i:06d}.jpg", i)
        rows = []

        def measure(name: str, call) -> None:
            result = []
            seconds = timing.stopwatch(lambda: result.append(call()))
            rows.append((name, f"{seconds:.2f}"))
            print(f"{name}: {seconds:.2f} s, {result[0]}", file=sys.stderr)

        def follow() -> gallery.Found:
            index = opened()
            return index.follow(pictures.find(folder, "--gallery"), lambda part: of_pictures(
                network, Namespace(**vars(opt)), part, "--gallery", 0)["discriminative"].numpy(),
                list)

        def opened() -> gallery.Index:
            return gallery.Index(file, folder, network="untrained", evaltype="discriminative",
                                 flag="--index")

        measure("built", follow)
        measure("reused", follow)
        first, second = sorted(folder.rglob("*.jpg"))[:2]
        first.unlink()
        os.utime(second)
        trees.write(folder / "new.jpg", given.images)
        measure("renewed: one image added, one changed, one deleted", follow)
        measure(f"{given.factory} built", lambda: opened().compressed(given.factory, 16)[1])
        measure(f"{given.factory} reused", lambda: opened().compressed(given.factory, 16)[1])
        exact = opened().exact()
        query = exact.reconstruct(0)
        measure("one exact search", lambda: gallery.nearest(exact, query, 10, set())[0])
        print(timing.describe())
        timing.table([f"{given.images:,} images", "seconds"], rows)


if __name__ == "__main__":
    main()
