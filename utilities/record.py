"""What a run writes: the files in its folder, logs and checkpoints.

Of several processes the first has a `Record`; the others, and a run that has not begun, have a
`Silent`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utilities import checkpoint, environment, interrupt, run_folder
from utilities.logger import Logger, NoLogger


class Silent:
    """Writes nothing."""

    def __init__(self):
        self.logger = NoLogger()

    def describe(self) -> None: ...

    def save(self, epoch: int, better: Sequence, network: dict, state: dict) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Record(Silent):
    """The constructor makes the run's folder or, to resume, locks it. options: plain types."""

    def __init__(self, opt, options: dict[str, Any]):
        self.options = options
        self.folder = (Path(opt.resume) if opt.resume else
                       run_folder.create(opt.save_path, opt.dataset, opt.savename))
        self.lock, self.versions = run_folder.lock(self.folder), environment.describe()
        self.last_state = checkpoint.LastEpoch(self.folder / run_folder.LAST, opt.save_every)
        self.logger = Logger.from_opt(opt, self.folder, options | {"environment": self.versions})

    def describe(self) -> None:
        """Writes the options."""
        run_folder.describe(self.folder, self.options, self.versions)

    def save(self, epoch: int, better: Sequence[tuple[str, str]], network: dict, state: dict
             ) -> None:
        """Writes a finished epoch: `network` as the best by each (evaltype, metric) in `better`,
        and the whole `state`; W&B gets its point when that is done."""
        checkpoint.save_same([self.folder / run_folder.checkpoint_name(*name) for name in better],
                             network)
        self.last_state.save(state, epoch + 1)
        self.logger.publish()

    def flush(self) -> None:
        """Writes the last whole epoch where it is only held in memory; signals wait meanwhile."""
        with interrupt.shield(raises=False):
            self.last_state.flush()

    def close(self) -> None:
        """Draws plots that are due, ends the W&B run and gives the folder free."""
        self.logger.close(exit_code=int(sys.exc_info()[0] is not None))
        self.lock.release()
