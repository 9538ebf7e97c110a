"""Scalars of the training steps: kept on the device, read rarely, checked for NaN and infinity.

Reading a device scalar waits for the device, so a step only adds to sums there, and notes the first
step at which a value was not finite. `read` fetches all of it in one copy.
"""

import itertools
import json
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utilities.checkpoint import write_text
from utilities.errors import RunError, TrainingError
from utilities.run_folder import last


class NotFinite(Exception):
    """`term` was not finite, first at `step` of the epoch (counted from 0; None: before the first).
    batch: the dataset indices of that step's images."""

    def __init__(self, term: str, step: int | None, batch: Sequence[int]):
        super().__init__(f"{term} is not finite at step {step}")
        self.term, self.step, self.batch = term, step, batch

    def report(self, folder: Path, epoch: int, paths: Sequence[str]) -> str:
        """Writes `not_finite.json`, which lists the batch's files, into `folder`; says what
        happened. paths: those of the dataset."""
        if self.step is None:
            return f"{self.term} is not finite before the first step of epoch {epoch}"
        path = folder / "not_finite.json"
        write_text(path, json.dumps({"term": self.term, "epoch": epoch, "step": self.step,
                                     "files": [paths[i] for i in self.batch]}, indent=1) + "\n")
        return (f"{self.term} is not finite in epoch {epoch}, step {self.step}; the files of that "
                f"batch are in {str(path)!r}")


class Monitor:
    """Means over an epoch of named device scalars. n_recent: the most steps between two reads;
    means: those of the epoch before, which `progress` shows until the first read."""

    def __init__(self, n_recent: int = 1, means: dict[str, float] | None = None):
        self.means, self.begun = means or {}, time.perf_counter()
        self.names: list[str] = []
        self.n_steps = 0
        self.batches: deque[Tensor] = deque(maxlen=n_recent)

    def add(self, terms: dict[str, Tensor], gradients: dict[str, Tensor], batch: Tensor,
            may_overflow: Tensor | None = None) -> None:
        """One step's scalars; their names and order stay the same within an epoch.

        batch: dataset indices (B,) of its images. may_overflow: a bool on the device, whether the
        step's gradients may be infinite; they then count as 0.
        """
        values = {**terms, **gradients}
        row = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        if not self.n_steps:
            self.names, self.sums = list(values), torch.zeros_like(row)
            self.first_bad = torch.full_like(row, -1.0)
        finite = row.isfinite()
        newly_bad = ~finite & (self.first_bad < 0)
        if may_overflow is not None:
            newly_bad[len(terms):] &= ~may_overflow
        self.first_bad.masked_fill_(newly_bad, self.n_steps)
        self.sums += row.where(finite, 0.0)
        self.batches.append(batch)
        self.n_steps += 1

    def read(self) -> dict[str, float]:
        """The means so far; NotFinite for the first step at which a value was not finite."""
        if not self.n_steps:
            return {}
        sums, first_bad = torch.stack([self.sums, self.first_bad]).tolist()
        bad = [(step, i) for i, step in enumerate(first_bad) if step >= 0]
        if bad:
            step, i = min(bad)
            raise self._not_finite(self.names[i], int(step))
        self.means = {name: total / self.n_steps
                      for name, total in zip(self.names, sums, strict=True)}
        return self.means

    def seconds(self) -> float:
        """Since the epoch began."""
        return time.perf_counter() - self.begun

    def progress(self, batch_size: int) -> dict[str, str]:
        """What a progress bar shows: the loss of the last read and the speed. Reads nothing."""
        loss = {"loss": f"{self.means['loss']:.3f}"} if self.means else {}
        return loss | {"images/s": f"{self.n_steps * batch_size / self.seconds():.0f}"}

    def check(self, *modules: nn.Module) -> None:
        """NotFinite, at the last step, for the first parameter or buffer that is not finite. Waits
        for the device."""
        named = [(name, tensor) for module in modules
                 for name, tensor in module.state_dict().items()
                 if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel()]
        entries = largest_entries([tensor for _, tensor in named]).tolist() if named else []
        for (name, _), entry in zip(named, entries, strict=True):
            if not math.isfinite(entry):
                raise self._not_finite(name, self.n_steps - 1 if self.n_steps else None)

    def explain(self, error: Exception, folder: Path, epoch: int, paths: Sequence[str]) -> None:
        """RunError in place of `error` where something was not finite when it came, and for a
        TrainingError: it says where, and which checkpoint in `folder` is good."""
        cause = error
        try:
            self.read()
        except NotFinite as bad:
            cause = bad
        if isinstance(cause, NotFinite):
            text = cause.report(folder, epoch, paths)
        elif isinstance(cause, TrainingError):
            text = f"epoch {epoch}{f', step {self.n_steps}' if cause.in_step else ''}: {cause}"
        else:
            return
        good = last(folder)
        saved = f"the last good checkpoint is {str(good)!r}" if good else "no epoch is saved yet"
        raise RunError(f"{text}; {saved}") from error

    def _not_finite(self, term: str, step: int | None) -> NotFinite:
        batch = [] if step is None else self.batches[step - self.n_steps].tolist()
        return NotFinite(term, step, batch)


def gradient_statistics(backbone: Sequence[nn.Parameter], heads: Sequence[nn.Parameter] = (),
                        *criteria: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The root mean square and the largest absolute entry of the network's gradient, and the
    largest absolute entry of the criteria's."""
    gradients, others = ([p.grad for p in parameters if p.grad is not None] for parameters in
                         ([*backbone, *heads], itertools.chain(*criteria)))
    zero = torch.zeros(1, device=backbone[0].device)
    norms = torch.stack(torch._foreach_norm([*gradients, zero]))
    largest = largest_entries([*gradients, zero, *others])
    n = len(gradients) + 1
    count = max(sum(gradient.numel() for gradient in gradients), 1)
    return {"Grad L2": norms.square().sum().div(count).sqrt(), "Grad Max": largest[:n].max(),
            "Grad Max of criteria": largest[n - 1:].max()}


def largest_entries(tensors: Sequence[Tensor]) -> Tensor:
    """The largest absolute entry of each tensor, NaN if it contains one. At least one tensor, none
    of them empty. (On a CPU torch's infinity norm takes twenty times as long.)"""
    if tensors[0].is_cuda:
        return torch.stack(torch._foreach_norm(tensors, math.inf))
    return torch.stack([torch.stack(tensor.aminmax()) for tensor in tensors]).abs().amax(1)
