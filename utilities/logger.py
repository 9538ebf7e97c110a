"""What a run reports per epoch: CSV files, plots, and one point on Weights & Biases.

    log(split, group, {segment: value})   as often as wanted, for the current epoch
    end_epoch(epoch)                      writes what was logged to the folder
    publish()                             sends it to W&B, once a checkpoint holds it

Groups become `CSV_Logs/Data_<split>_<group>.csv`, `Progression_Plots/Graph_<split>_<group>.svg` and
W&B keys `<split>: <group>: <segment>`, shortened to `<split>: <group>` where both names are equal.
Where a split has several groups `<name>_<family>` with the segments `<family>` or `<family>@...`,
`Graph_<split>_all_<family>.svg` shows them together. Values are numbers; a NumPy array goes only to
W&B, as a histogram.

All rows stay in memory and in `state_dict`, and a resumed run rewrites its CSV files as they were
at the checkpoint: later rows, torn lines and missing files leave no trace. Of its earlier epochs it
sends to W&B what is missing there.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utilities import plot
from utilities.checkpoint import write_text
from utilities.errors import RunError
from utilities.run_folder import file_name
from utilities.wandb_run import NoRun, WandbRun


@dataclass
class Series:
    """The rows of one group, the part of its file names that identifies it, and which value of a
    segment is the best: max, min, or none of them."""

    split: str
    group: str
    stem: str
    segments: list[str]
    best: str
    epochs: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.split}: {self.group}"

    @property
    def keys(self) -> list[str]:
        return [key(self.split, self.group, segment) for segment in self.segments]

    def point(self, epoch: int) -> dict[str, float]:
        """{W&B key: value} of the epoch, {} where it has no row."""
        if epoch not in self.epochs:
            return {}
        return dict(zip(self.keys, self.rows[self.epochs.index(epoch)], strict=True))

    def summary(self) -> dict[str, float]:
        """{W&B key: best value so far}, or the last one where none is the best."""
        last = dict(zip(self.keys, self.rows[-1], strict=True))
        if self.best == "none":
            return last
        choose = max if self.best == "max" else min
        columns = {name: [value for value in column if not math.isnan(value)]
                   for name, column in zip(self.keys, zip(*self.rows, strict=True), strict=True)}
        return last | {name: choose(values) for name, values in columns.items() if values}


class NoLogger:
    """Takes everything and does nothing."""

    def start(self) -> None: ...

    def log(self, split: str, group: str, values: dict[str, Any], best: str = "none") -> None: ...

    def picture(self, name: str, path: str | Path) -> None: ...

    def end_epoch(self, epoch: int) -> None: ...

    def publish(self) -> None: ...

    def close(self, exit_code: int = 0) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Logger(NoLogger):
    """Logs into `folder`. plots: none, end (drawn by `close`) or epoch; online: where the points
    go, a `WandbRun` or `NoRun`."""

    def __init__(self, folder: str | Path, *, plots: str = "end", online=None):
        self.folder, self.plots = Path(folder), plots
        self.online = online or NoRun()
        self.series: dict[tuple[str, str], Series] = {}
        self.epoch = -1     # the last one that was ended
        self.current: dict[tuple[str, str], dict[str, Any]] = {}
        self.best: dict[tuple[str, str], str] = {}
        self.arrays: dict[str, np.ndarray] = {}     # of the last epoch, by W&B key
        for path in (self.folder / "CSV_Logs", self.folder / "Progression_Plots"):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"cannot create {str(path)!r}: {error.strerror or error}") from error

    @classmethod
    def from_opt(cls, opt, folder: str | Path, config: dict[str, Any]) -> Logger:
        """config: the options as W&B shows them, without the key."""
        online = WandbRun.from_opt(opt, folder, config) if opt.log_online else NoRun()
        return cls(folder, plots=opt.plots, online=online)

    def start(self) -> None:
        """Connects to W&B, under the id that `load_state_dict` restored, if any, and sends the
        run's epochs that it lacks; where it has them all, the summary."""
        self.online.start()
        if self.online.logged == self.epoch >= 0:
            self._publish(self.epoch)
        for epoch in range(self.online.logged + 1, self.epoch + 1):
            self._publish(epoch)

    def log(self, split: str, group: str, values: dict[str, Any], best: str = "none") -> None:
        """Adds {segment: number or array} to what the current epoch reports about `group`. best:
        which value of the epochs W&B's summary shows, max or min; none: the last."""
        self.best[split, group] = best
        self.current.setdefault((split, group), {}).update(
            {segment: value if isinstance(value, np.ndarray) else float(value)
             for segment, value in values.items()})

    def picture(self, name: str, path: str | Path) -> None:
        """Shows the image file at `path` under `name` on W&B, with the next point."""
        self.online.picture(name, path)

    def end_epoch(self, epoch: int) -> None:
        """Writes the current epoch's values: a CSV row per group, and plots.

        RunError when the folder cannot be written.
        """
        current, self.current, self.arrays, self.epoch = self.current, {}, {}, epoch
        for (split, group), values in current.items():
            numbers = {segment: value for segment, value in values.items()
                       if isinstance(value, float)}
            self.arrays |= {key(split, group, segment): value for segment, value in values.items()
                            if segment not in numbers}
            if numbers:
                series = self._series(split, group, numbers, self.best[split, group])
                self._append(series, epoch, numbers)
                if self.plots == "epoch":
                    self._draw(series)
        if self.plots == "epoch":
            self._draw_families()

    def publish(self) -> None:
        """Sends the last epoch's values to W&B as one point."""
        self._publish(self.epoch)
        self.arrays = {}

    def _publish(self, epoch: int) -> None:
        groups = self.series.values()
        numbers = {name: value for series in groups for name, value in series.point(epoch).items()}
        summary = {name: value for series in groups for name, value in series.summary().items()}
        self.online.log(numbers | self.arrays, epoch, summary)

    def close(self, exit_code: int = 0) -> None:
        """Draws the plots that are due at the end, and ends the W&B run."""
        try:
            if self.plots == "end":
                for series in self.series.values():
                    self._draw(series)
                self._draw_families()
        finally:
            self.online.finish(exit_code)

    def state_dict(self) -> dict[str, Any]:
        series = [{"split": split, "group": group, "segments": list(entry.segments),
                   "epochs": torch.tensor(entry.epochs, dtype=torch.int64),
                   "rows": torch.tensor(entry.rows, dtype=torch.float64), "best": entry.best}
                  for (split, group), entry in self.series.items()]
        return {"series": series, "wandb_id": self.online.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`: every CSV file ends with the last row of that state."""
        self.series = {}
        for entry in state["series"]:
            series = self._series(entry["split"], entry["group"], entry["segments"],
                                  entry.get("best", "none"))
            series.epochs, series.rows = entry["epochs"].tolist(), entry["rows"].tolist()
            write_text(self._csv(series), csv_text([series.segments, *series.rows]))
            self.epoch = max(self.epoch, *series.epochs)
        self.online.id, self.online.logged = state["wandb_id"], self.epoch

    def _series(self, split: str, group: str, segments, best: str) -> Series:
        """The group's series, made on first use; `loss` and `Loss` get files that differ by more
        than case, since file systems may not tell them apart."""
        if (split, group) not in self.series:
            taken = {entry.stem.lower() for entry in self.series.values()}
            stem, number = file_name(f"{split}_{group}"), 2
            while stem.lower() in taken:
                stem, number = file_name(f"{split}_{group}_{number}"), number + 1
            self.series[split, group] = Series(split, group, stem, list(segments), best)
        return self.series[split, group]

    def _append(self, series: Series, epoch: int, numbers: dict[str, float]) -> None:
        assert set(numbers) == set(series.segments), (
            f"{series.title} has the segments {series.segments}, now {list(numbers)}")
        row = [numbers[segment] for segment in series.segments]
        lines = [row] if series.rows else [series.segments, row]
        path = self._csv(series)
        try:
            with open(path, "a" if series.rows else "w", encoding="utf-8", newline="") as file:
                file.write(csv_text(lines))
        except OSError as error:
            raise RunError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
        series.epochs.append(epoch)
        series.rows.append(row)

    def _csv(self, series: Series) -> Path:
        return self.folder / "CSV_Logs" / f"Data_{series.stem}.csv"

    def _draw(self, series: Series) -> None:
        write_text(self.folder / "Progression_Plots" / f"Graph_{series.stem}.svg", plot.curves(
            series.title, series.epochs, series.rows, series.segments), sync=False)

    def _draw_families(self) -> None:
        """Draws the groups of each family in one plot, where there are several."""
        families: dict[tuple[str, str], dict[str, Series]] = {}
        for (split, group), series in self.series.items():
            family = series.segments[0].partition("@")[0]
            if group.endswith(f"_{family}"):
                name = group.removesuffix(f"_{family}")
                families.setdefault((split, family), {})[name] = series
        for (split, family), members in families.items():
            if len(members) > 1:
                groups = {name: (series.epochs, series.rows) for name, series in members.items()}
                segments = next(iter(members.values())).segments
                write_text(self.folder / "Progression_Plots"
                           / f"Graph_{file_name(f'{split}_all_{family}')}.svg",
                           plot.together(f"{split}: {family}", groups, segments), sync=False)


def key(split: str, group: str, segment: str) -> str:
    """The name of a value on W&B."""
    return f"{split}: {group}" + ("" if segment == group else f": {segment}")


def csv_text(rows: Iterable[Sequence]) -> str:
    """The rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
