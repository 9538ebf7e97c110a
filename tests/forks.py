"""Trainings in processes that are forked from one that has imported everything, so that they start
at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds until a process counts as hanging
SERVER = """
import json, os, sys
import diva_main, parameters
from utilities import terminal
import architectures.network, datasets.images, evaluation.retrievals, metrics.neighbours
import criteria.dc, criteria.fast_moco, criteria.margin, torchvision.models

def serve():
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if "process" in order:
            process, status, usage = os.wait4(order["process"], os.WNOHANG)
            answer = process and [os.waitstatus_to_exitcode(status),
                                  usage.ru_utime + usage.ru_stime]
            print(json.dumps(answer), flush=True)
            continue
        process = os.fork()
        if not process:
            return order
        os.setpgid(process, process)
        print(process, flush=True)
    sys.exit()

order = serve()
for handle, name in ((1, "out"), (2, "err")):
    file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, handle)
    os.close(file)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.argv = ["diva_main.py", *order["argv"]]
exec(order["patch"])
terminal.prepare()
sys.exit(diva_main.main(parameters.read_arguments()))
"""


@dataclass
class Process:
    """A training, the leader of its process group."""

    server: Server
    id: int
    folder: Path
    status: int | None = None  # as in subprocess: negative by a signal
    cpu_seconds: float = 0.0

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def ended(self) -> bool:
        if self.status is None and (answer := self.server.ask(process=self.id)):
            self.status, self.cpu_seconds = answer
        return self.status is not None

    def wait(self) -> int:
        """The exit status; a process that hangs is killed and fails the test."""
        if not until(self.ended):
            os.killpg(self.id, signal.SIGKILL)
            raise AssertionError(f"hangs: {self.out}\n{self.err}")
        return self.status

    def kill_after(self, cpu_seconds: float) -> bool:
        """SIGKILL once it has computed for so long; False when it has ended before."""
        while not self.ended():
            if cpu_time(self.id) >= cpu_seconds:
                os.kill(self.id, signal.SIGKILL)
                return self.wait() == -signal.SIGKILL
            time.sleep(0.001)
        return False

    def is_alone(self) -> bool:
        """Whether no worker is left of it."""
        return until(lambda: not members(self.id), 30)


class Server:
    """Starts trainings: what they print goes into files of `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, 0
        environment = os.environ | {"WANDB_MODE": "disabled"}
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **order):
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, argv, patch: str = "") -> Process:
        """patch: Python that the process runs before `diva_main.main`."""
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir(parents=True)
        for name in ("out", "err"):
            (folder / name).touch()
        order = {"argv": [str(word) for word in argv], "patch": textwrap.dedent(patch),
                 "out": str(folder / "out"), "err": str(folder / "err")}
        return Process(self, self.ask(**order), folder)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    running = Server(folder)
    try:
        yield running
    finally:
        running.process.stdin.close()
        running.process.wait(PATIENCE)
        running.process.stdout.close()


def until(condition, seconds: float = PATIENCE) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(true)


def members(group: int) -> set[int]:
    """The processes of the group that run (a zombie does not)."""
    running = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, its_group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(its_group) == group and state != "Z":
                    running.add(int(entry.name))
    return running


def cpu_time(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
