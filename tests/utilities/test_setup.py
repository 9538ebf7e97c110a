"""What is chosen once before a run."""

import platform
import resource

import pytest
import torch
from torch import nn

from utilities import setup
from utilities.errors import RunError, UserError
from utilities.loss_scaling import LossScaling


class OneLayer(nn.Linear):
    def parameter_groups(self, *, lr, fc_lr, decay):
        return [{"params": list(self.parameters()), "lr": lr, "name": "network"}]


@pytest.mark.parametrize("optim", ["adam", "sgd"])
def test_a_first_step_that_the_scaler_skips_leaves_no_trace(make_opt, optim):
    """Fused SGD would go on with an uninitialised momentum."""
    layer, scaling = OneLayer(4, 1), LossScaling("fp16", torch.device("cpu"))
    opt = make_opt("--optim", optim, "--precision", "fp16", "--lr", 0.1)
    optimiser = setup.optimiser(opt, layer, nn.ModuleList())
    before = layer.weight.detach().clone()
    torch.use_deterministic_algorithms(True)    # fills uninitialised memory with NaN
    try:
        for scale in (torch.inf, 1):
            scaling.backward(layer(torch.ones(1, 4)).sum() * scale, optimiser)
            scaling.step(optimiser)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(layer.weight, before - 0.1)


@pytest.mark.parametrize("argv, line", [
    (["--device", "cuda"],
     "--device: 'cuda' given, but there is no CUDA device here; accepted: auto, cpu"),
    (["--cache", "gpu"],
     "--cache: 'gpu' given, but there is no CUDA device here; accepted: another value"),
    (["--precision", "fp16"],
     "--precision: 'fp16' given, but there is no CUDA device here; accepted: another value"),
    (["--evaluate_on_gpu"],
     "--evaluate_on_gpu: given, but there is no CUDA device here; accepted: without it"),
])
def test_what_needs_a_gpu_is_refused_without_one(make_opt, monkeypatch, argv, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as refusal:
        setup.device(make_opt(*argv))
    assert str(refusal.value) == line


def test_what_the_gpu_lacks_is_refused(make_opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert setup.device(make_opt()) == torch.device("cuda", 0)
    assert setup.device(make_opt("--device", "cpu")) == torch.device("cpu")
    with pytest.raises(UserError, match=r"^--gpu: 1 given, but this machine has 1 CUDA devices"):
        setup.device(make_opt("--gpu", 1))
    with pytest.raises(UserError, match=r"^--precision: 'bf16' given, but this GPU"):
        setup.device(make_opt("--precision", "bf16"))


def test_only_out_of_memory_errors_are_explained():
    with pytest.raises(RunError, match=r"^CUDA out of memory. Tried it; a smaller --bs"), \
            setup.explain_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried it. More.")
    with pytest.raises(RuntimeError, match=r"^other$"), setup.explain_out_of_memory():
        raise RuntimeError("other")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")
def test_memory_that_tensors_free_is_kept():
    def page_faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    setup.keep_freed_memory()
    for _ in range(20):
        torch.ones(16 << 20)
    before = page_faults()
    for _ in range(20):
        torch.ones(16 << 20)
    pages = (64 << 20) / resource.getpagesize()
    assert page_faults() - before < pages
