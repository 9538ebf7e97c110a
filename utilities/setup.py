"""What is chosen once before a run: device, random state, optimiser, schedule."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler

from utilities.errors import UserError


def device(opt) -> torch.device:
    """Where the networks live, by `--device` and `--gpu`."""
    wants_cuda = opt.device == "cuda" or (opt.device == "auto" and torch.cuda.is_available())
    if not wants_cuda:
        for flag, value in (("--cache", "gpu"), ("--precision", "fp16")):
            if getattr(opt, flag[2:]) == value:
                raise UserError(f"{flag}: {value!r} needs a CUDA device, and there is none here; "
                                "accepted: another value")
        return torch.device("cpu")
    if opt.gpu[0] >= torch.cuda.device_count():
        raise UserError(f"--gpu: {opt.gpu[0]} given, but this machine has "
                        f"{torch.cuda.device_count()} CUDA devices; accepted: an index below that, "
                        "or --device cpu")
    torch.cuda.set_device(opt.gpu[0])
    return torch.device("cuda", opt.gpu[0])


def seed(opt) -> None:
    random.seed(opt.seed)
    np.random.seed(opt.seed)
    torch.manual_seed(opt.seed)
    if opt.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not opt.deterministic


def optimiser(opt, network: nn.Module, objective: nn.ModuleList) -> torch.optim.Optimizer:
    """Adam or SGD over the trunk, the heads and every criterion's own parameters."""
    groups = network.parameter_groups(lr=opt.lr, fc_lr=opt.fc_lr, decay=opt.decay)
    groups += [group for feature in objective for group in feature.parameter_groups()]
    if opt.optim == "sgd":
        return torch.optim.SGD(groups, lr=opt.lr, momentum=0.9, fused=True)
    return torch.optim.Adam(groups, lr=opt.lr, fused=True)


def scheduler(opt, optimiser: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """The learning rates' course over the epochs."""
    if opt.scheduler == "exp":
        return lr_scheduler.ExponentialLR(optimiser, opt.gamma)
    milestones = opt.tau if opt.scheduler == "step" else []
    return lr_scheduler.MultiStepLR(optimiser, milestones, opt.gamma)


def compile_parts(device: torch.device, *parts: nn.Module) -> None:
    """`--compile`: lets torch compile what each part is called for; UserError where it cannot."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise UserError(f"--compile: torch cannot compile here: {reason}; accepted: a C++ compiler "
                        "installed, or without --compile") from None
    for part in parts:
        part.compile()
