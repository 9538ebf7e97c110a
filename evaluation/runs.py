"""The results of runs, read from their folders or from Weights & Biases."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import metrics
from utilities import checkpoint, run_folder
from utilities.errors import RunError, UserError, refuse
from utilities.files import fault
from utilities.options import OPTIONS_FILE
from utilities.wandb_run import EPOCH

SPLITS = ("Train", "Val", "Test")
RESULTS = "the folder of a run that has trained an epoch, or a folder of such"
Key = tuple[str, str, str, str]     # split, evaltype, "best <storage metric>" or "last", metric


class Run(NamedTuple):
    """where: its folder, or its path on W&B; epochs: how many it has trained; data: what identifies
    its images, {} where that is not known."""

    where: str
    options: dict[str, Any]
    epochs: int
    values: dict[Key, float]
    data: dict[str, Any]

    @property
    def chosen_on(self) -> str:
        """The split on which the best epochs were chosen."""
        return "Val" if any(split == "Val" for split, *_ in self.values) else "Test"


def folders(given: Sequence[Path], flag: str) -> list[Path]:
    """The run folders among `given` and, up to two levels down, in them, each once; UserError where
    one of `given` has none."""
    found: dict[Path, Path] = {}
    for folder in given:
        if wrong := fault(folder, "folder"):
            refuse(flag, f"{str(folder)!r} {wrong}", RESULTS)
        inside = [folder] if not fault(folder / OPTIONS_FILE) else sorted(
            path.parent for below in ("*", "*/*")
            for path in folder.glob(f"{below}/{OPTIONS_FILE}"))
        if not inside:
            refuse(flag, f"no run in {str(folder)!r}", RESULTS)
        for run in inside:
            if run != folder and run_folder.last(run) is None:
                print(f"Left out {run}, where no epoch was finished.", file=sys.stderr)
            else:
                found.setdefault(run.resolve(), run)
    return list(found.values())


def read(folder: Path, flag: str) -> Run:
    """The run in `folder`; UserError where it has finished no epoch or its files are damaged."""
    if run_folder.last(folder) is None:
        refuse(flag, f"{str(folder)!r} holds no {run_folder.LAST}", RESULTS)
    with last_state(folder, flag) as state:
        values = {(split, evaltype, kind, metric): float(value)
                  for evaltype, kind, _, of_splits in results(state)
                  for split, scores in of_splits.items() for metric, value in scores.items()}
        return Run(str(folder), dict(state["options"]), int(state["epoch"]), values, data(state))


@contextlib.contextmanager
def last_state(folder: Path, flag: str) -> Iterator[dict[str, Any]]:
    """What `checkpoint_last` in `folder` holds; UserError, naming `flag`, where it is damaged or
    lacks what is taken from it."""
    path = folder / run_folder.LAST
    state = checkpoint.load(path, flag=flag, mmap=True)
    try:
        yield state
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        refuse(flag, f"{str(path)!r} does not hold the results of a run ({type(error).__name__})",
               "a checkpoint_last of this program")


def results(state: Mapping[str, Any]) -> list[tuple[str, str, int, dict[str, dict[str, float]]]]:
    """(evaltype, "best <metric>" or "last", epoch, {split or category: {metric: value}})."""
    best, last = state["evaluator"]["best"], state["evaluator"]["last"]
    return [*((evaltype, f"best {metric}", entry["epoch"], entry["metrics"])
              for evaltype, metric, entry in best),
            *((evaltype, "last", last["epoch"], of_splits)
              for evaltype, of_splits in last["metrics"].items())]


def data(state: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the run's images: how many there are, and digests."""
    return {name: entry for name, entry in state["data"].items() if name != "trained_on"}


def from_history(where: str, options: Mapping[str, Any],
                 points: Iterable[Mapping[str, Any]]) -> Run:
    """A run as W&B keeps it. points: what was logged after each epoch; of an epoch that stands
    there twice the later one counts."""
    points = list(points)
    epochs = {point.get(EPOCH, n): scores for n, point in enumerate(points)
              if (scores := of_point(point))}
    history = [epochs[epoch] for epoch in sorted(epochs)]
    values: dict[Key, float] = {}
    for epoch in history:
        values.update({(*key[:2], "last", key[2]): value for key, value in epoch.items()})
    chosen_on = "Val" if any(key[0] == "Val" for key in values) else "Test"
    for evaltype in dict.fromkeys(evaltype for _, evaltype, *_ in values):
        for metric in options.get("storage_metrics", ()):
            key = chosen_on, evaltype, metric
            measured = [epoch for epoch in history if epoch.get(key, -math.inf) > -math.inf]
            if measured:
                best = max(measured, key=itemgetter(key))       # the first of equals
                values.update({(split, name, f"best {metric}", score): value
                               for (split, name, score), value in best.items()
                               if name == evaltype})
    n_epochs = len({point.get(EPOCH, n) for n, point in enumerate(points)
                    if point.get("Train: loss") is not None})
    return Run(where, dict(options), n_epochs, values, {})


def of_point(point: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """{(split, evaltype, metric): value} of what one epoch logged under `<split>:
    <evaltype>_<metric family>: <metric>`."""
    scores = {}
    for key, value in point.items():
        split, _, rest = key.partition(": ")
        group, _, metric = rest.rpartition(": ")
        if split not in SPLITS or not isinstance(value, (int, float)):
            continue
        family = metric.partition("@")[0]
        if family in metrics.METRICS and group.endswith(f"_{family}"):
            scores[split, group.removesuffix(f"_{family}"), metric] = float(value)
    return scores


def from_wandb(project: str) -> list[Run]:
    """The runs of `project`, "<entity>/<project>", that logged an evaluation; UserError where there
    are none, RunError where W&B cannot be read."""
    if project.count("/") != 1 or not all(project.split("/")):
        refuse("--wandb", f"{project!r} given", "<entity>/<project>")
    import wandb

    try:
        runs = [from_history(f"{project}/{run.id}", run.config, run.scan_history())
                for run in wandb.Api().runs(project) if "diva_features" in run.config]
    except (UserError, RunError):
        raise
    except Exception as error:      # of the client, the connection or the account
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"--wandb: cannot read {project!r} from W&B: {reason}") from error
    for run in runs:
        if not run.values:
            print(f"Left out {run.where}, which logged no evaluation.", file=sys.stderr)
    if not any(run.values for run in runs):
        refuse("--wandb", f"no run in {project!r} logged an evaluation", "a project of such runs")
    return [run for run in runs if run.values]
