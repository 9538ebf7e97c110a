"""What a run has logged and found, from its folder: curves, tables of results, environment."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import runs
from utilities import run_folder

MOST_POINTS = 1000      # of a curve


class History(NamedTuple):
    """A run up to its last saved epoch.

    epochs: how many it has trained; minutes: of training; curves: {title, split, group, names,
    epochs, rows}, rows[i][j] the value of names[j] after epochs[i] (counted from 0); tables:
    {title, columns, rows} for each split and category, a row being [evaltype, "best <metric>" or
    "last", epoch, values]; data: what identifies its images.
    """

    epochs: int
    minutes: float
    curves: list[dict[str, Any]]
    tables: list[dict[str, Any]]
    data: dict[str, Any]

    def epoch_of_best(self, evaltype: str, metric: str) -> int | None:
        """After which epoch the best checkpoint for `evaltype` by `metric` was written; None where
        that is not saved."""
        return next((epoch for table in self.tables for name, kind, epoch, _ in table["rows"]
                     if (name, kind) == (evaltype, f"best {metric}")), None)


def read(folder: Path, flag: str) -> History:
    """The history that `checkpoint_last` in `folder` holds, an empty one where a run has not
    written it yet; UserError, naming `flag`, where it is damaged."""
    if run_folder.last(folder) is None:
        return History(0, 0.0, [], [], {})
    with runs.last_state(folder, flag) as state:
        return History(int(state["epoch"]), state["seconds"] / 60,
                       [curve(series) for series in state["logger"]["series"]],
                       tables(runs.results(state)), runs.data(state))


def curve(series: dict[str, Any]) -> dict[str, Any]:
    """A series of the logger, thinned to MOST_POINTS; the last point always stays."""
    every = math.ceil(len(series["epochs"]) / MOST_POINTS) or 1
    kept = slice((len(series["epochs"]) - 1) % every, None, every)
    return {"title": f"{series['split']}: {series['group']}", "split": series["split"],
            "group": series["group"], "names": list(series["segments"]),
            "epochs": series["epochs"][kept].tolist(),
            "rows": [[float(f"{value:.5g}") for value in row]
                     for row in series["rows"][kept].tolist()]}


def tables(rows: list[tuple[str, str, int, dict]]) -> list[dict[str, Any]]:
    """A table for each split or category, in the order of the evaltypes. rows: (evaltype, "best
    <metric>" or "last", epoch, {title: {metric: value}})."""
    evaltypes = list(dict.fromkeys(evaltype for evaltype, *_ in rows))
    rows = sorted(rows, key=lambda row: evaltypes.index(row[0]))
    made = []
    for title in dict.fromkeys(title for *_, of_titles in rows for title in of_titles):
        columns = list(dict.fromkeys(
            metric for *_, of_titles in rows for metric in of_titles.get(title, ())))
        made.append({"title": title, "columns": columns, "rows": [
            [evaltype, kind, epoch, [of_titles.get(title, {}).get(name) for name in columns]]
            for evaltype, kind, epoch, of_titles in rows]})
    return made


def environment(folder: Path) -> list[str]:
    """What the run was computed with, a text for each part of it, from `Parameter_Info.txt`; none
    where that cannot be read."""
    try:
        text = (folder / "Parameter_Info.txt").read_bytes().decode(errors="backslashreplace")
    except OSError:
        return []
    return text.strip().split("\n\n")[1:]
