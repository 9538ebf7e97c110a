"""The exceptions that the user sees as one line."""

from typing import NoReturn


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was given, where (the flag), and
    what would be accepted. `diva_main.py` prints it and exits with `status`, without a traceback.
    """

    status = 2


class RunError(RuntimeError):
    """What goes wrong during a run without being the program's mistake (a full disk, a folder that
    is gone): one line. `diva_main.py` prints it and exits with `status`, without a traceback.
    """

    status = 1


class TrainingError(RunError):
    """A RunError to which training led, e.g. by divergence. `diva_main.py` adds the epoch, the step
    where it was raised `in_step`, and the last good checkpoint."""

    in_step = False


def refuse(flag: str, what: str, accepted: str) -> NoReturn:
    """Raises the UserError for `what` was given by `flag`, with what would be `accepted`."""
    raise UserError(f"{flag}: {what}; accepted: {accepted}")
