"""What is chosen once before a run: device, random state, optimiser."""

import contextlib
import ctypes
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from utilities import environment
from utilities.errors import RunError, refuse

# Parameters of glibc's mallopt: how many blocks may be mapped by themselves, how much free memory
# at the end of the heap is returned (-1: none), how many heaps threads may have.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX = -4, -1, -8


def device(opt) -> torch.device:
    """Where the networks live, by `--device` and `--gpu`, or by torchrun's number of the process.
    A process whose networks live on the CPU keeps freed memory.
    """
    if opt.device == "cpu" or not torch.cuda.is_available():
        for wants_gpu, flag, given, accepted in (
                (opt.device == "cuda", "--device", "'cuda' given", "auto, cpu"),
                (opt.cache == "gpu", "--cache", "'gpu' given", "another value"),
                (opt.precision == "fp16", "--precision", "'fp16' given", "another value"),
                (opt.evaluate_on_gpu, "--evaluate_on_gpu", "given", "without it")):
            if wants_gpu:
                refuse(flag, f"{given}, but there is no CUDA device here", accepted)
        keep_freed_memory()
        return torch.device("cpu")
    index = environment.local_rank() if environment.by_torchrun() else opt.gpu[0]
    if environment.n_local_processes() > torch.cuda.device_count():
        refuse("torchrun", f"{environment.n_local_processes()} processes started on a machine with "
               f"{torch.cuda.device_count()} CUDA devices", "at most one for each")
    if index >= torch.cuda.device_count():
        refuse("--gpu", f"{index} given, but this machine has {torch.cuda.device_count()} "
               "CUDA devices", "an index below that, or --device cpu")
    torch.cuda.set_device(index)
    if opt.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        refuse("--precision", "'bf16' given, but this GPU does not compute in it", "fp32, fp16")
    return torch.device("cuda", index)


def keep_freed_memory() -> None:
    """Makes glibc's malloc keep freed memory for later tensors. By default it returns large blocks
    to the kernel, and the next tensor waits until the kernel has zeroed new pages. Where malloc is
    another one, nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        for parameter, value in (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1):
            mallopt(parameter, value)


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """RunError in place of torch's error when a GPU's memory is used up."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"{'. '.join(str(error).split('. ')[:2])}; a smaller --bs and --precision "
                       "bf16 need less, and so do runs without --cache gpu or with "
                       "--evaluate_on_cpu") from error


def seed(opt) -> None:
    random.seed(opt.seed)
    np.random.seed(opt.seed)
    torch.manual_seed(opt.seed)
    if opt.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not opt.deterministic


def optimiser(opt, network: nn.Module, objective: nn.ModuleList) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over the trunk, the heads and the parameters of every criterion. With
    `--clip_grad` each step first clips the gradient of trunk and heads."""
    groups = network.parameter_groups(lr=opt.lr, fc_lr=opt.fc_lr, decay=opt.decay)
    learned = [parameter for group in groups for parameter in group["params"]]
    groups += [group for feature in objective for group in feature.parameter_groups()]
    if opt.optim == "sgd":
        # When the scaler skips the first step, fused SGD keeps an uninitialised momentum.
        fused = opt.precision != "fp16"
        made = torch.optim.SGD(groups, lr=opt.lr, momentum=0.9, fused=fused, foreach=not fused)
    else:
        kind = torch.optim.AdamW if opt.optim == "adamw" else torch.optim.Adam
        made = kind(groups, lr=opt.lr, fused=True)

    def clip(*_) -> None:
        clip_grad_norm_(learned, opt.clip_grad)

    if opt.clip_grad:
        made.register_step_pre_hook(clip)
    return made


def compile_parts(opt, device: torch.device, *parts: nn.Module) -> None:
    """`--compile`: compiles the forward pass of each part; UserError where torch cannot compile."""
    if not opt.compile:
        return
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        refuse("--compile", f"torch cannot compile here: {reason}",
               "a C++ compiler installed, or without --compile")
    for part in dict.fromkeys(parts):
        part.compile()
