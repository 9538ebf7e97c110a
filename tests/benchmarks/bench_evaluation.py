"""Time and memory of the metrics against the number of test images.

    python tests/benchmarks/bench_evaluation.py [--sizes 1000 10000 20000] [--dim 512]
        [--no_clusters] [--no_ranking] [--device cpu]

The embeddings are those of four heads. Every size is measured in a process of its own, beside
faiss's own search (as deep) and k-means, in the same run: the ratios hold where the seconds do not.
`other` is everything but k-means of e_recall@1,2,4, nmi, f1 and mAP_c for the three evaltypes of
`--evaltypes all`, beside three searches of faiss; k-means and `mAP`, which ranks the whole gallery,
are of one evaltype. Memory is the peak above what the process holds with its embeddings.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import faiss
import torch
import torch.nn.functional as F

import metrics
from evaluation import evaltypes
from evaluation.embedding import derive
from utilities.clustering import k_means

NAMES = ["e_recall@1", "e_recall@2", "e_recall@4", "mAP_c"]
CLUSTERED = ["nmi", "f1"]
IMAGES_PER_CLASS = 5.4  # 20,000 images in 3,700 classes, about that of Stanford Online Products
FEATURES = ("discriminative", "selfsimilarity", "shared", "intra")
EVALTYPES = evaltypes.expand(["all"], FEATURES, "cub200")
COLUMNS = ["images", "classes", "other s", "3 faiss searches s", "ratio", "MB", "k-means s",
           "faiss k-means s", "ratio", "MB", "mAP s", "MB"]


def embeddings(n: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four unit rows of dim / 4 side by side, around class centres, without large temporaries."""
    torch.manual_seed(0)
    n_classes = max(2, round(n / IMAGES_PER_CLASS))
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, dim)
    features = torch.empty(n, dim).normal_()
    for rows, classes in zip(features.split(4096), labels.split(4096), strict=True):
        rows += 0.7 * centres[classes]
        for head in rows.chunk(len(FEATURES), 1):
            head.copy_(F.normalize(head, dim=1))
    return features, labels


def status(field: str) -> float:
    """MB of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def timed(function, *args, **kwargs) -> tuple[float, float]:
    """Seconds, and MB of peak memory above the present."""
    measured = sys.platform == "linux"
    if measured:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
    start = time.perf_counter()
    function(*args, **kwargs)
    seconds = time.perf_counter() - start
    return seconds, status("VmHWM") - before if measured else float("nan")


def measure(n: int, options: argparse.Namespace, rows) -> None:
    """Puts one row of the table on the queue `rows`."""
    heads, labels = embeddings(n, options.dim)
    device = options.device
    metrics.compute([*NAMES, *CLUSTERED, "mAP"], heads[:500], labels[:500], device=device)

    def evaluate() -> None:
        for evaltype in EVALTYPES:
            metrics.compute(NAMES, derive(heads, evaltype, FEATURES, normalize=True), labels,
                            device=device)

    other, memory = timed(evaluate)
    features = derive(heads, EVALTYPES[0], FEATURES, normalize=True)
    points, k = features.numpy(), int(labels.bincount().max())
    search, _ = timed(lambda: [faiss.knn(points, points, k + 1) for _ in EVALTYPES])
    row = {"clusters": ["-"] * 4, "ranking": ["-"] * 2}
    if options.clusters:
        n_classes = int(labels.max()) + 1
        found = []
        seconds, peak = timed(lambda: found.extend(k_means(features.to(device), n_classes)))
        scores, _ = timed(metrics.compute, CLUSTERED, features, labels, clusters=tuple(found))
        other += len(EVALTYPES) * scores

        def plain():
            means = faiss.Kmeans(options.dim, n_classes, niter=20, seed=1234,
                                 min_points_per_centroid=1, max_points_per_centroid=n)
            means.train(points)
            means.assign(points)

        by_faiss, _ = timed(plain)
        row["clusters"] = [f"{seconds:.2f}", f"{by_faiss:.2f}", f"{seconds / by_faiss:.2f}",
                           f"{peak:.0f}"]
    if options.ranking:
        ranking, peak = timed(metrics.compute, ["mAP"], features, labels, device=device)
        row["ranking"] = [f"{ranking:.2f}", f"{peak:.0f}"]
    rows.put([f"{n:,}", f"{int(labels.max()) + 1:,}", f"{other:.2f}", f"{search:.2f}",
              f"{other / search:.2f}", f"{memory:.0f}", *row["clusters"], *row["ranking"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 20_000],
                        help="numbers of images")
    parser.add_argument("--dim", type=int, default=512, help="width of the embeddings")
    parser.add_argument("--no_clusters", dest="clusters", action="store_false",
                        help="leave k-means out, which takes minutes from 60,000 images on")
    parser.add_argument("--no_ranking", dest="ranking", action="store_false", help="leave mAP out")
    parser.add_argument("--device", default="cpu", help="where to search and cluster")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{torch.get_num_threads()} threads, {options.dim} dimensions, device {options.device}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + " ---: |" * len(COLUMNS), flush=True)
    for n in options.sizes:
        rows = context.Queue()
        process = context.Process(target=measure, args=(n, options, rows))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{n} images: the measurement ended with status {process.exitcode}")
        print("| " + " | ".join(rows.get()) + " |", flush=True)


if __name__ == "__main__":
    main()
