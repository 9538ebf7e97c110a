"""Time and size of the page of evaluation.report, beside the embedding.

    python tests/benchmarks/bench_report.py [--images 60000] [--classes 11316] [--dim 512]
        [--side 400] [--map pca] [--out FILE.html]

The embeddings are random points around the centres of their classes; the images are 500 noisy
files of side x side pixels, each shown under many names.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from evaluation.evaluator import Split
from evaluation.report import Found, fitted

N_FILES = 500


def photographs(folder: Path, side: int) -> list[str]:
    """Files of JPEGs that are as hard to compress as photographs of foliage."""
    rng, paths = np.random.default_rng(0), []
    for i in range(N_FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
        paths.append(str(folder / f"{i}.jpg"))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--map", default="pca")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    labels = np.arange(given.images) * given.classes // given.images
    centres = torch.randn(given.classes, given.dim)
    points = F.normalize(centres[torch.from_numpy(labels)]
                         + 2 * torch.randn(given.images, given.dim))
    names = [f"{label:05d}.a name of forty letters and more digits" for label in
             range(given.classes)]
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), given.side)
        # Names that differ lead to the same file, so that no image is kept once for two.
        paths = [files[i % N_FILES].replace("/", "/" + "./" * (i // N_FILES), 1)
                 for i in range(given.images)]
        dataset = SimpleNamespace(labels=labels, paths=paths, class_names=names)
        split = Split("Test", SimpleNamespace(dataset=dataset))
        start, cpu = time.perf_counter(), time.process_time()
        found = Found(split, [points])
        print(f"neighbours, classes: {time.perf_counter() - start:.1f} s")
        page, told = fitted({"run": "bench", "dataset": "bench", "evaltype": "bench",
                             "metric": "e_recall@1", "epoch": 0, "epochs": 0, "n_epochs": 0,
                             "minutes": 0.0, "given": [], "options": [], "curves": [], "tables": [],
                             "environment": []} | found.content(given.map))
    print(f"all: {time.perf_counter() - start:.1f} s ({time.process_time() - cpu:.1f} s of "
          f"processors), {len(page) / 1e6:.2f} MB; Recall@1 "
          f"{found.measured.values['e_recall@1']:.3f}; {' '.join(told)}")
    if given.out:
        given.out.write_bytes(page)


if __name__ == "__main__":
    main()
