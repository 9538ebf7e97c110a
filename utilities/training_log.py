"""What a run prints and logs of each epoch's training, under the names that dashboards use."""

import sys
from collections.abc import Sequence

import torch


def log_training(logger, epoch: int, means: dict[str, float], seconds: float, n_images: int, *,
                 objective: Sequence, teaching, optimiser: torch.optim.Optimizer) -> None:
    """means: of the epoch's steps, by `Monitor`; seconds: that they took, for n_images images.
    objective: the features, which log scalars of their own; teaching: their shares of the gradient;
    optimiser: its learning rates are those of the last step.
    """
    log, speed = logger.log, n_images / seconds
    print(f"Epoch {epoch}: loss {means['loss']:.4f}, {speed:.1f} images/s", flush=True)
    for name, value in {"epochs": epoch, "time": seconds, "images per second": speed}.items():
        log("Train", name, {name: value})
    log("Train", "loss", {"loss": means["loss"]}, best="min")
    mean_losses = {feature.name: means[f"Loss: {feature.name}"] for feature in objective}
    log("Train", "Loss", mean_losses, best="min")
    for feature in objective:
        for group, segments in feature.scalars(mean_losses[feature.name]).items():
            log("Train", group, segments)
    shares, idle = teaching.read(mean_losses)
    log("Train", "Gradient share", shares)
    for line in idle:
        print(f"Epoch {epoch}: {line}", file=sys.stderr)
    for name in ("L2", "Max"):
        log("Model Grad", name, {f"Grad {name}": means[f"Grad {name}"]})
    log("Train", "Learning rate", {group["name"]: group["lr"] for group in optimiser.param_groups})
