"""Times of things compared in one run, in turns, so that what else the machine does hits all."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Times(NamedTuple):
    """Seconds of one call: the smallest seen, which other work disturbs least, and the median."""

    smallest: float
    median: float


def in_turns(calls: dict[str, Callable[[], object]], *, seconds: float,
             rounds: int = 3) -> dict[str, Times]:
    """Calls everything once a round, in an order of its own, until `seconds` are over and at least
    `rounds` rounds are done; a first round is not counted."""
    order, spent = random.Random(0), {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent[next(iter(spent))]) < rounds:
        for name in order.sample(list(calls), len(calls)):
            spent[name].append(stopwatch(calls[name]))
    return {name: Times(min(all_), statistics.median(all_)) for name, all_ in spent.items()}


def stopwatch(call: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def describe(device: torch.device | str = "cpu") -> str:
    """One line: where, with what versions."""
    device = torch.device(device)
    name = (torch.cuda.get_device_name(device) if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads")
    return f"{name}; Python {platform.python_version()}, torch {torch.__version__}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table in Markdown; the first column is text."""
    print("| " + " | ".join(columns) + " |\n|" + " --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def compare(title: str, times: dict[str, Times], *, to: str) -> None:
    """Prints milliseconds of each and their ratio to the one called `to`."""
    table([title, "ms, smallest", "ms, median", f"of {to}"],
          [[name, f"{1e3 * t.smallest:.2f}", f"{1e3 * t.median:.2f}",
            f"{t.smallest / times[to].smallest:.2f}"] for name, t in times.items()])
