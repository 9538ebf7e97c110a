"""A run on Weights & Biases that never stops or delays a training.

Where W&B cannot be reached, refuses the key or gets lost later, the run goes on offline, says so
once, and keeps what is logged for `wandb sync`. The key is handed to the client in memory: it is in
no file, environment, child's arguments or config.

W&B's step is the epoch, and a resumed run continues its curve: the client drops a point whose step
W&B has, so the run begins behind W&B's last one. Offline there is nobody to ask for that; epochs
that a killed process had logged and not saved (`--save_every`) are then logged again.

The summary holds each score's best value, written here after each point. The client's own
`define_metric(summary="max")` forgets what a run reached before it was resumed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utilities.terminal import escaped, shell_word

INIT_SECONDS = 8  # to connect; the client takes up to 5 more to start and give up
FINISH_SECONDS = 60  # to upload what is left at the end
MAX_BINS = 512  # of a histogram on W&B
MAX_TAG, MAX_NAME = 64, 128  # characters; W&B refuses longer ones
EPOCH = "Train: epochs"  # the key that charts have as their horizontal axis
CLIENT = "by the client's own settings (WANDB_MODE)"
# Of the client: its messages would repeat ours, its error reports delay the end of a run by 10 s
# where there is no network, and a process that is killed would lose the points of the last 15 s.
SETTINGS = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1"}


class NoRun:
    """Takes everything and does nothing."""

    id: str | None = None
    logged = -1

    def start(self) -> None: ...

    def log(self, values: dict[str, Any], epoch: int, summary: dict[str, float]) -> None: ...

    def picture(self, name: str, path: str | Path) -> None: ...

    def finish(self, exit_code: int = 0) -> None: ...


class WandbRun:
    """mode: online or offline; the client's settings (WANDB_MODE) may only restrict it.
    key: with None the client looks in the environment and in its login. `id` is the run's on W&B,
    `logged` the last epoch that W&B has, -1 for none; `last` that of the training."""

    def __init__(self, folder: str | Path, *, project: str, group: str | None, name: str,
                 entity: str | None, tags: Sequence[str], key: str | None, mode: str,
                 last: int, config: dict[str, Any]):
        self.folder, self.mode, self.config = Path(folder), mode, config
        self.destination = {field: text and escaped(text) for field, text in {
            "project": project, "group": group, "name": name[:MAX_NAME], "entity": entity}.items()}
        self.tags = list(dict.fromkeys(escaped(tag)[:MAX_TAG] for tag in tags))
        self.key, self.last = key, last
        self.id: str | None = None
        self.run = None
        self.logged, self.told = -1, False
        self.summary: dict[str, float] | None = None    # of the last point, None before the first
        self.pictures: dict[str, str] = {}

    @classmethod
    def from_opt(cls, opt, folder: str | Path, config: dict[str, Any]) -> WandbRun:
        tags = [opt.dataset, opt.arch, opt.loss, *opt.diva_features]
        return cls(folder, project=opt.project, group=opt.group, name=opt.savename, tags=tags,
                   entity=opt.wandb_entity, key=opt.wandb_key, mode=opt.wandb_mode, config=config,
                   last=opt.n_epochs - 1)

    def start(self) -> None:
        """Starts the run under `id`. Where that is None, under the one that a sweep's agent or the
        user has put into the environment, or a new one."""
        self.id = self.id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        # The client records the command line.
        sys.argv[:] = [escaped(word.replace(self.key or "***", "***")) for word in sys.argv]
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import wandb

            mode = wandb.setup().settings.mode
            mode = {"run": "online", "dryrun": "offline"}.get(mode, mode)
            if mode not in ("online", "offline"):
                self._init(mode)
                self._tell(f"{mode}, {CLIENT}")
            elif mode == "offline":
                self._go_offline(f"offline, {CLIENT}")
            elif self.mode == "offline":
                self._go_offline("offline, by --wandb_mode")
            else:
                self._init("online")
                saved, self.logged = self.logged, self.run.starting_step - 1
                print(f"W&B: {self.run.url}", flush=True)
                if self.logged > saved:
                    print(f"W&B: epochs up to {self.logged} are there and not sent again",
                          flush=True)
        except Exception as error:
            self._go_offline(f"cannot log online ({_reason(error)})")

    def _init(self, mode: str) -> None:
        import wandb

        str(self.folder).encode()   # an error here, where the client would print tracebacks
        key = {"api_key": self.key} if self.key else {}
        settings = wandb.Settings(quiet=True, init_timeout=INIT_SECONDS,
                                  login_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS,
                                  finish_timeout_raises=True, **key)
        self.run = wandb.init(**self.destination, tags=self.tags, id=self.id, resume="allow",
                              mode=mode, config=self.config, allow_val_change=True,
                              dir=str(self.folder), settings=settings)
        self.id = self.run.id   # in a sweep that of its agent, whatever was asked for
        self.run.define_metric(EPOCH)
        self.run.define_metric("*", step_metric=EPOCH)

    def _go_offline(self, reason: str) -> None:
        """Continues in an offline run of the same id, so that `wandb sync` unites them."""
        try:
            import wandb

            with contextlib.suppress(Exception):
                wandb.teardown()  # or the client refuses the id as in use
            self._init("offline")
            kept = f"upload what is logged from here on with {self._sync_command}"
        except Exception as error:
            self.run, kept = None, "nothing is logged there from here on"
            if _reason(error) not in reason:
                kept += f" ({_reason(error)})"
        self._tell(f"{reason}; training goes on, {kept}")

    @property
    def _sync_command(self) -> str:
        return f"`wandb sync {shell_word(Path(self.run.dir).parent)}`"

    def log(self, values: dict[str, Any], epoch: int, summary: dict[str, float]) -> None:
        """One point, unless W&B has that epoch from before the run was resumed; arrays become
        histograms of one bar per entry. summary: {key: value} of the whole run, since the summary
        of a part that is uploaded later replaces that of the parts before."""
        if self.run is None:
            return
        if epoch == self.logged:        # which a resumed run may have evaluated late
            with contextlib.suppress(Exception):
                self.run.summary.update(summary)
        if epoch <= self.logged:
            return
        self.summary, commit = summary, epoch < self.last   # the last point waits for pictures
        try:
            self._send(values, epoch, commit)
        except Exception as error:
            self._go_offline(f"lost at step {epoch} ({_reason(error)})")
            with contextlib.suppress(Exception):
                self._send(values, epoch, commit)
        self.logged, self.pictures = epoch, {}

    def _send(self, values: dict[str, Any], epoch: int, commit: bool) -> None:
        """Adds the values and the pictures that wait to the epoch's point, and commits it."""
        import wandb

        numbers = {key: value if isinstance(value, (int, float)) else _histogram(value)
                   for key, value in values.items()}
        pictures = {name: wandb.Image(path) for name, path in self.pictures.items()
                    if os.path.isfile(path)}    # the user may have moved it
        self.run.log(numbers | pictures, step=epoch, commit=commit)
        self.run.summary.update(self.summary)

    def picture(self, name: str, path: str | Path) -> None:
        """Shows the image file at `path` with the next point, or at the end with the last; where a
        run ends early, when it is resumed."""
        self.pictures[name] = str(path)

    def finish(self, exit_code: int = 0) -> None:
        """Ends the run; what cannot be uploaded in FINISH_SECONDS stays on the disk."""
        if self.run is None:
            return
        try:
            if self.summary is not None and self.logged == self.last:
                self._send({}, self.last, commit=True)
            self.run.finish(exit_code=exit_code)
        except Exception as error:
            self._tell(f"lost at the end ({_reason(error)}); upload what is missing with "
                       f"{self._sync_command}")
        self.run = None

    def _tell(self, what: str) -> None:
        if not self.told:
            self.told = True
            print(f"W&B: {what}", file=sys.stderr, flush=True)


def _histogram(values: np.ndarray):
    """values (n,) -> W&B's histogram of one bar per entry, or of MAX_BINS means."""
    import wandb

    bars = [part.mean() for part in np.array_split(values, min(len(values), MAX_BINS))]
    return wandb.Histogram(np_histogram=(bars, np.linspace(0, len(values), len(bars) + 1)))


def _reason(error: Exception) -> str:
    """One line on why the client failed."""
    for fault in error.errors() if type(error).__name__ == "ValidationError" else ():
        name = "_".join(["WANDB", *map(str, fault["loc"])]).upper()
        if name in os.environ:
            return f"{name}: {os.environ[name]!r} in the environment; {fault['msg']}"
    if isinstance(error, UnicodeEncodeError):
        return f"the client takes no path that is not UTF-8, here {error.object!r}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
