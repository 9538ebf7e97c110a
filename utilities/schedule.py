"""The learning rates of a training: a warm-up in every step, then a scheduler in every epoch.

In step t, counted from 0, of the n steps of the warm-up, each group has

    lr = (t + 1) / n * base lr

(Goyal et al. 2017, arXiv 1706.02677, section 2.2). The scheduler begins after the warm-up, with its
epoch 0.
"""

from __future__ import annotations

import torch
from torch.optim import lr_scheduler


class Schedule:
    """n_steps: the steps of an epoch. All state is that of `scheduler`."""

    def __init__(self, scheduler: lr_scheduler.LRScheduler, *, warmup_epochs: int, n_steps: int):
        self.scheduler, self.warmup_epochs, self.n_steps = scheduler, warmup_epochs, n_steps

    @classmethod
    def from_opt(cls, opt, optimiser: torch.optim.Optimizer, n_steps: int) -> Schedule:
        if opt.scheduler == "exp":
            scheduler = lr_scheduler.ExponentialLR(optimiser, opt.gamma)
        elif opt.scheduler == "cosine":
            horizon = max(opt.n_epochs - opt.warmup_epochs, 1)
            scheduler = lr_scheduler.CosineAnnealingLR(optimiser, horizon)
        else:
            milestones = opt.tau if opt.scheduler == "step" else []
            scheduler = lr_scheduler.MultiStepLR(optimiser, milestones, opt.gamma)
        return cls(scheduler, warmup_epochs=opt.warmup_epochs, n_steps=n_steps)

    def before_step(self, epoch: int, step: int) -> None:
        """Sets the learning rates of a step of the warm-up."""
        done, n = epoch * self.n_steps + step, self.warmup_epochs * self.n_steps
        if done < n:
            for group in self.scheduler.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * ((done + 1) / n)

    def after_epoch(self, epoch: int) -> None:
        if epoch >= self.warmup_epochs:
            self.scheduler.step()
