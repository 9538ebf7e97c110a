"""Runs on several processes, forked from one that has imported everything (see `tests.forks`), with
the environment that torchrun gives them and a store that outlives them."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

from tests import forks

STEPS = """
import torch
import diva_main, parameters
from tests.processes import one_step_each
from utilities import distributed

with distributed.join() as processes:
    training = diva_main.Training(parameters.read_arguments(), processes)
    one_step_each(training, {states!r}, {results!r} + str(processes.rank))
sys.exit()
"""


class Launched:
    """`size` processes of one run. `store` is what torchrun's agent keeps for them, also for those
    that it starts in place of others."""

    def __init__(self, server: forks.Server, size: int, argv, patch: str = "",
                 store: dist.TCPStore | None = None):
        self.store = store or dist.TCPStore(
            "localhost", 0, is_master=True, wait_for_workers=False,
            timeout=timedelta(seconds=forks.PATIENCE))
        self.members = [server.start(argv, environment(rank, size, self.store.port) + patch)
                        for rank in range(size)]

    def wait(self) -> list[int]:
        """The exit statuses."""
        return [process.wait() for process in self.members]

    @property
    def err(self) -> str:
        """What all of them print on stderr."""
        return "".join(process.err for process in self.members)


def environment(rank: int, size: int, port: int) -> str:
    """Python that sets what torchrun sets."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
                 "MASTER_ADDR": "localhost", "MASTER_PORT": port,
                 "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return f"os.environ.update({ {name: str(value) for name, value in variables.items()} })\n"


def one_step_each(training, states: str, results: str) -> None:
    """Takes the one step of each epoch from the state before it in the file `states`, which the
    only process of a run writes, and writes the file `results`: what it finds and how it ends."""
    import torch

    # Where ReLU has its corner, rounding would decide on which side a pixel is.
    for module in [*training.network.modules(), *training.objective.modules()]:
        if isinstance(module, torch.nn.ReLU):
            module.__class__ = torch.nn.SiLU
    training.begin()
    alone = training.processes.size == 1
    before = [] if alone else torch.load(states, weights_only=True)
    outcomes = [{"begin": training.state_dict()["objective"]}]
    for epoch in range(training.opt.n_epochs):
        if alone:
            before.append(clone(training.state_dict()))
        else:
            training.load_state_dict(clone(before[epoch]))
            training.epoch = epoch
        training.train_epoch(epoch)
        learned = [*training.network.parameters(), *training.objective.parameters()]
        outcomes.append(clone({
            "terms": {name: torch.tensor(value) for name, value in training.monitor.means.items()},
            "gradients": [p.grad for p in learned if p.grad is not None],
            "network": training.network.state_dict(), "objective": training.objective.state_dict(),
            "average": training.average.network.state_dict(),
            "sampler": training.sampler.state_dict()}))
    if alone:
        torch.save(before, states)
    torch.save(clone(outcomes), results)


def clone(value):
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(entry) for key, entry in value.items()}
    return [clone(entry) for entry in value] if isinstance(value, (list, tuple)) else value
