"""What several GPUs would make of a training step: an estimate from measured parts.

    step = networks(B / N images) + objective(B, K) + gather(B) + sum of gradients

Networks: the published four-feature run on one H100 (RESULTS, "On a GPU once"). Objective: a fit to
the table of `bench_objective.py` on two CPU cores, divided by GPU_TIMES_CPU. Bandwidths, latency
and that factor are assumptions, named below.
"""

IMAGES_PER_SECOND = 2800        # measured, one H100, bf16, networks alone
GRADIENTS = 24.6e6 * 4          # bytes: ResNet50 and four heads of 128
GATHERED = (4 * 128 + 2048 + 128) * 4   # bytes an image: heads, trunk, key
GPU_TIMES_CPU = 100             # assumed: between the ratios of bandwidth (150) and of kernels that
LAUNCHES = 2e-3                 # are too small to fill a GPU; seconds to launch the kernels
LATENCY = 30e-6                 # assumed, of a collective
BANDWIDTH = {8: 150e9, 64: 40e9, 512: 40e9}     # assumed, bytes/s a GPU: NVLink, then InfiniBand
QUEUE = {112: 3360, 1024: 16384, 8192: 65536}


def objective(batch: int, queue: int) -> float:
    """Seconds. The fit is within 10 % of each of the eight rows of the table."""
    cpu = 5.3 + 0.026 * batch + 1.35e-5 * batch**2 + 1.0e-5 * batch * queue
    return max(LAUNCHES, cpu / 1000 / GPU_TIMES_CPU)


def main() -> None:
    print("| GPUs | batch | queue | networks ms | gather ms | gradients ms | objective ms | "
          "step ms | images/s | of N times one |")
    print("| ---: " * 10 + "|")
    for batch, queue in QUEUE.items():
        alone = batch / IMAGES_PER_SECOND + objective(batch, queue)
        for n, bandwidth in BANDWIDTH.items():
            if batch % (2 * n):
                continue
            networks = batch / n / IMAGES_PER_SECOND
            gather = LATENCY + GATHERED * batch / bandwidth
            gradients = LATENCY + 2 * GRADIENTS / bandwidth
            parts = networks, gather, gradients, objective(batch, queue)
            step = sum(parts)
            cells = " | ".join(f"{1000 * part:.1f}" for part in (*parts, step))
            print(f"| {n} | {batch:,} | {queue:,} | {cells} | {batch / step:,.0f} | "
                  f"{alone / step / n:.0%} |")


if __name__ == "__main__":
    main()
