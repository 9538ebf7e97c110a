"""One run on several processes, started by `torchrun --nproc_per_node N diva_main.py ...`.

All processes draw the same batches. Each embeds its share of the images; the embeddings are
gathered, and each process computes the whole objective from them, with the same random numbers. So
the backward pass gives each process dL/de of all embeddings, it goes on with its own rows, and the
network's gradients are the sum over the processes.

A batch is shared as two blocks: the halves of a share are parts of the batch's halves, so that a
feature may pair the two halves of a batch. The first process measures, writes and decides. `Alone`
is what stands in for all this in a run of one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from utilities import environment, interrupt, terminal
from utilities.errors import RunError, UserError, refuse
from utilities.random_streams import seeds

POLL_SECONDS = 0.1      # between two looks of a process that waits for the first
CLAIM_SECONDS = 3.0     # that another process has to say why it ended
BUCKET = 2**23          # gradients, 4 bytes each, that are summed at once
TOLERANCE = 1e-3        # relative, of a term of the loss between two processes
DROPOUT = ("Dropout", "StochasticDepth", "DropPath")     # how names of such modules begin


class Ended(BaseException):
    """Ends this process without a message and with `status`: another process says why."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class Lost(RunError):
    """Another process has ended, or cannot be reached."""


class Alone:
    """The only process of a run: nothing to share."""

    rank, size, is_first = 0, 1, True

    def connect(self, device: torch.device) -> torch.device:
        """Once, before any other method: the device on which this process computes."""
        return device

    def accept(self, network: nn.Module, *others: nn.Module) -> None:
        """Before training: gives all processes the parameters and buffers of the first, and says
        where `network` will not train as on one process, since it has dropout."""

    def rows(self, n: int) -> Sequence[int]:
        """The rows of this process in a batch of n."""
        return range(n)

    def block(self, n: int) -> range:
        """The images of this process among n that are embedded in order."""
        return range(n)

    def gather(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """(b, D) of the own rows, each -> (B, D) of the batch. Gradients flow to the own rows."""
        return parts

    def collect(self, rows: Tensor, n: int, *, everywhere: bool) -> Tensor | None:
        """rows (b, D) of the own block -> (n, D) of all blocks, in order, on the first process or,
        with `everywhere`, on each; otherwise None."""
        return rows

    def from_first(self, module: nn.Module) -> None:
        """Overwrites the parameters and buffers of `module` by those of the first process."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Overwrites `tensor` by its sum over the processes, the same on each."""
        return tensor

    def sum_gradients(self, network: Sequence[nn.Parameter], criteria: Sequence[nn.Parameter]
                      ) -> None:
        """After a backward pass. The gradients of the criteria are whole on each process already;
        their mean keeps copies equal to the last bit."""

    def part_streams(self, *numbers: int) -> None:
        """Seeds torch's generators, from which dropout draws, by the numbers and differently on
        each process."""

    def compare(self, modules: Sequence[nn.Module], indices: Tensor, losses: dict[str, Tensor]
                ) -> None:
        """RunError where parameters or buffers, the images `indices` of a batch or the values of
        the losses differ between the processes."""

    def first(self, work: Callable[[], Any]) -> Any:
        """Only the first process does the `work`, with all cores; each returns its result, which
        JSON must be able to hold."""
        return work()

    @contextlib.contextmanager
    def first_of_machine(self) -> Iterator[None]:
        """One process of each machine runs the block before the others do, so that they find on the
        disk what it has put there."""
        yield

    def claim(self, error: BaseException) -> None:
        """Called by each process that `error` ends. It returns in the first one to call it, which
        then reports its error, and raises `Ended` in the others."""


ALONE = Alone()


class Processes(Alone):
    """Process `rank` of `size`. store: what torchrun lets the processes share."""

    def __init__(self, store: dist.Store, rank: int, size: int):
        self.store, self.rank, self.size = store, rank, size
        self.is_first = rank == 0
        self.n_waits, self.speaks = 0, False

    def connect(self, device: torch.device) -> torch.device:
        with explain_lost():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", store=self.store, rank=self.rank,
                world_size=self.size, timeout=timedelta(minutes=30),
                device_id=device if device.type == "cuda" else None)
        if self.is_first:
            print(f"{self.size} processes share each batch ({dist.get_backend()}).", flush=True)
        return device

    def accept(self, network: nn.Module, *others: nn.Module) -> None:
        for module in (network, *others):
            self.from_first(module)
        if random := dropping(network):
            print(f"{', '.join(sorted(random))}: drawn on each process for itself, so that the "
                  "run differs from that of one process.", flush=True)

    def rows(self, n: int) -> Sequence[int]:
        share = n // (2 * self.size)
        return [half + self.rank * share + i for half in (0, n // 2) for i in range(share)]

    def block(self, n: int) -> range:
        """Blocks begin at multiples of one length, so that side by side they are the data set. A
        process whose block would begin behind the end embeds the last image again; `collect` drops
        it."""
        length = -(-n // self.size)
        begin = min(self.rank * length, n - 1)
        return range(begin, min(begin + length, n))

    def gather(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        whole = _Gather.apply(torch.cat(list(parts), 1), self)
        return [part.contiguous() for part in whole.split([part.shape[1] for part in parts], 1)]

    def gather_rows(self, share: Tensor) -> Tensor:
        """(b, D) -> (B, D), without gradient."""
        b, width = share.shape
        whole = share.new_empty(self.size, 2, b // 2, width)
        self.all_gather(whole.view(self.size, b, width), share.contiguous())
        return whole.transpose(0, 1).reshape(-1, width)

    def all_gather(self, whole: Tensor | Sequence[Tensor], own: Tensor) -> None:
        """Writes each process's `own` into the entry of `whole` that has its rank."""
        with explain_lost():
            dist.all_gather(list(whole), own)

    def collect(self, rows: Tensor, n: int, *, everywhere: bool) -> Tensor | None:
        length = -(-n // self.size)
        block = rows.new_zeros(length, rows.shape[1])
        block[:len(rows)] = rows
        whole = (rows.new_empty(length * self.size, rows.shape[1])
                 if everywhere or self.is_first else None)
        if everywhere:
            self.all_gather(whole.split(length), block)
        else:
            with explain_lost():
                dist.gather(block, list(whole.split(length)) if self.is_first else None)
        return None if whole is None else whole[:n]

    def from_first(self, module: nn.Module) -> None:
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor):      # not what a module adds of its own
                with explain_lost():
                    dist.broadcast(tensor, 0)

    def sum(self, tensor: Tensor) -> Tensor:
        with explain_lost():
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, network: Sequence[nn.Parameter], criteria: Sequence[nn.Parameter]
                      ) -> None:
        gradients = [parameter.grad for parameter in network if parameter.grad is not None]
        whole = [parameter.grad for parameter in criteria if parameter.grad is not None]
        if whole:
            torch._foreach_div_(whole, self.size)
        for bucket in _buckets([*gradients, *whole]):
            flat = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            parts = flat.split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(gradient) for part, gradient in
                                          zip(parts, bucket, strict=True)])

    def part_streams(self, *numbers: int) -> None:
        if not self.is_first:       # which goes on as a run of one process does
            torch.manual_seed(seeds(*numbers, self.rank, n=1)[0])

    def compare(self, modules: Sequence[nn.Module], indices: Tensor, losses: dict[str, Tensor]
                ) -> None:
        tensors = [tensor.detach().flatten() for module in modules
                   for tensor in module.state_dict().values() if isinstance(tensor, Tensor)]
        bits = [tensor.view(torch.uint8 if tensor.element_size() < 4 else torch.int32)
                for tensor in tensors]
        checksum = torch.stack([part.sum(dtype=torch.int64) for part in bits]).sum()
        own = {"parameters": checksum.item(), "images of a batch": indices.tolist()}
        own |= {f"values of the loss {name}": loss.item() for name, loss in losses.items()}
        of_all: list[Any] = [None] * self.size
        with explain_lost():
            dist.all_gather_object(of_all, own)
        different = [name for name, value in of_all[0].items()
                     if not all(alike(other[name], value) for other in of_all)]
        if different:
            raise RunError("the processes of this run are no longer alike: "
                           f"{' and '.join(different)} differ between them; what was saved before "
                           "is good, and --deterministic may avoid it")

    def first(self, work: Callable[[], Any]) -> Any:
        key, self.n_waits = f"first {self.n_waits}", self.n_waits + 1
        if self.is_first:
            with all_threads():
                result = work()
            with explain_lost():
                self.store.set(key, json.dumps(result))
            return result
        self.wait(key)
        with explain_lost():
            return json.loads(self.store.get(key))

    @contextlib.contextmanager
    def first_of_machine(self) -> Iterator[None]:
        machine = self.rank - environment.local_rank()      # the rank of its first process
        key, self.n_waits = f"machine {machine} {self.n_waits}", self.n_waits + 1
        if self.rank != machine:
            self.wait(key)
        yield
        if self.rank == machine:
            with explain_lost():
                self.store.set(key, "")

    def wait(self, key: str) -> None:
        """Sleeps until `key` is set. `Lost` where a process ends instead."""
        with explain_lost():
            while not self.store.check([key]):
                interrupt.check()
                if self.store.check(["end"]):
                    raise Lost("another process has ended")
                time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """At the end of a run: the first process, which may keep the store, leaves last."""
        with explain_lost():
            self.store.set(f"left {self.rank}", "")
        for rank in range(1, self.size) if self.is_first else ():
            self.wait(f"left {rank}")
        if dist.is_initialized():
            dist.destroy_process_group()

    def claim(self, error: BaseException) -> None:
        if self.speaks:
            return
        known = isinstance(error, (UserError, RunError, interrupt.Interrupted, Ended))
        claim = f"{self.rank} {error.status if known else 1}"
        try:
            deadline = time.monotonic() + CLAIM_SECONDS * isinstance(error, Lost)
            while time.monotonic() < deadline and not self.store.check(["end"]):
                time.sleep(POLL_SECONDS)
            claim = self.store.compare_set("end", "", claim).decode()
        except RuntimeError:
            pass                # the store has ended with the process that keeps it
        rank, of_all = map(int, claim.split())
        if rank != self.rank:
            raise Ended(of_all) from None
        self.speaks = True
        if not self.is_first:
            terminal.speak()


class _Gather(torch.autograd.Function):
    """`Processes.gather_rows`, whose backward pass returns the gradient of the own rows: each
    process has the whole gradient, since it computes the whole objective."""

    @staticmethod
    def forward(ctx, share: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.gather_rows(share)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.processes.rows(len(gradient))], None


@contextlib.contextmanager
def join() -> Iterator[Alone]:
    """The processes that torchrun started; `ALONE` without torchrun."""
    if not environment.by_torchrun():
        yield ALONE
        return
    processes = Processes(*rendezvous())
    try:
        if not processes.is_first:
            terminal.hush("stderr")
        yield processes
        processes.leave()
    except BaseException as error:
        processes.claim(error)
        raise


def rendezvous() -> tuple[dist.Store, int, int]:
    """The store, the rank and the size, from the environment. The processes that `torchrun
    --max_restarts` starts anew have the store of those before; they get a part for themselves."""
    try:
        with explain_lost():
            store, rank, size = next(iter(dist.rendezvous("env://")))
    except ValueError as error:
        refuse("torchrun", f"the environment is not as it leaves it ({error})",
               "what it sets, or none of RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt {attempt}", store), rank, size


@contextlib.contextmanager
def explain_lost() -> Iterator[None]:
    """`Lost` in place of torch's errors when a process cannot be reached."""
    try:
        yield
    except (RunError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        raise Lost("another process of this run has ended without saying why, as when the system "
                   "kills it where memory runs out, or cannot be reached") from error


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """torchrun leaves each process one thread; here it may use all cores."""
    before, n_cores = torch.get_num_threads(), environment.available_cores()
    torch.set_num_threads(n_cores)
    try:
        with threadpool_limits(n_cores):    # of faiss and NumPy
            yield
    finally:
        torch.set_num_threads(before)


def alike(one: Any, other: Any) -> bool:
    """Whether two processes agree: floats within TOLERANCE, anything else exactly."""
    if isinstance(other, float):
        return np.isclose(one, other, rtol=TOLERANCE, equal_nan=True)
    return one == other


def dropping(network: nn.Module) -> set[str]:
    """The classes of layers of `network` that leave something out at random in training."""
    return {type(module).__name__ for module in network.modules()
            if type(module).__name__.startswith(DROPOUT)
            and getattr(module, "p", getattr(module, "drop_prob", 1))}


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors with about BUCKET entries, in order."""
    bucket, n_entries = [], 0
    for tensor in tensors:
        bucket.append(tensor)
        n_entries += tensor.numel()
        if n_entries >= BUCKET:
            yield bucket
            bucket, n_entries = [], 0
    if bucket:
        yield bucket
