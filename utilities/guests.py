"""Objects of pytorch-metric-learning by name: `pml:ContrastiveLoss`, with arguments from JSON.

Versions 2 and 3 of the library are used alike, by what the documentation of both says: the packages
below, the names in them, arguments by keyword, `loss(embeddings, labels, indices)` and
`miner(embeddings, labels)`, and tuples of three or four index tensors, named or not.
"""

import contextlib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterator, Sequence

import torch

from utilities import registry
from utilities.errors import RunError, TrainingError, UserError, refuse
from utilities.options import GUEST

INSTALL = 'pip install "pytorch-metric-learning>=2.7,<4"'
FOLDERS = ("losses", "miners", "distances", "reducers", "regularizers")


class GuestError(TrainingError):
    """What a guest raised."""

    in_step = True


@contextlib.contextmanager
def explain(name: str, *, flag: str) -> Iterator[None]:
    """GuestError in place of what the guest `name`, given by `flag`, raises."""
    try:
        yield
    except (RunError, UserError, torch.OutOfMemoryError):   # which `utilities.setup` explains
        raise
    except Exception as error:
        raise GuestError(f"{flag}: {name} fails: {one_line(error)}; accepted: batches that it "
                         f"takes (--data_sampler, --samples_per_class, --bs), or another {flag}"
                         ) from error


def build(name: str, folder: str, arguments: dict, *, flag: str, arguments_flag: str,
          **defaults):
    """An object of the class `name` ("pml:<ClassName>") from pytorch_metric_learning.<folder>.

    Inside `arguments`, "pml:<ClassName>" or {"pml:<ClassName>": {its arguments}} stands for an
    object of that library, e.g. {"distance": {"pml:LpDistance": {"power": 2}}}. Of `defaults`,
    those that the constructor has and `arguments` leaves out are passed too. UserError when the
    library is not installed in a supported version (naming `flag`), the class does not exist or
    the arguments do not fit.
    """

    def resolve(value):
        if isinstance(value, str) and value.startswith(GUEST):
            value = {value: {}}
        if isinstance(value, list):
            return [resolve(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        key = next(iter(value), "")
        if len(value) == 1 and key.startswith(GUEST):
            return construct(find(key, FOLDERS, flag=arguments_flag), key, value[key])
        return {key: resolve(entry) for key, entry in value.items()}

    def construct(cls, name, arguments):
        if not isinstance(arguments, dict):
            refuse(arguments_flag, f"{arguments!r} for {name}", "a JSON object")
        accepted = parameters(cls)
        for argument in arguments:
            registry.check(argument, accepted, flag=f"{arguments_flag}: {name}")
        known = {key: value for key, value in defaults.items() if key in accepted}
        try:
            return cls(**known | resolve(dict(arguments)))
        except UserError:
            raise
        except Exception as error:
            refuse(arguments_flag, f"{name} with {arguments}: {one_line(error)}",
                   f"{', '.join(accepted)}")

    return construct(find(name, (folder,), flag=flag), name, arguments)


def find(name: str, folders: Sequence[str], *, flag: str) -> type:
    """The class that "pml:<ClassName>" names in one of the library's `folders`; UserError where it
    has none, and where the library is not installed or of a version whose interface is not known.
    """
    try:
        version = importlib.metadata.version("pytorch-metric-learning")
        if not (2, 7) <= tuple(map(int, re.findall(r"\d+", version)[:2])) < (4,):
            refuse(flag, f"{name!r} given, but pytorch-metric-learning {version} is installed",
                   f"version 2.7 or later, below 4 ({INSTALL})")
        modules = [importlib.import_module(f"pytorch_metric_learning.{folder}")
                   for folder in folders]
    except ImportError as error:
        raise UserError(f"{flag}: {name!r} needs a library that is not installed ({error}); "
                        f"{INSTALL}") from error
    classes = {GUEST + key: value for module in modules for key, value in vars(module).items()
               if inspect.isclass(value) and not key.startswith("_")
               and not key.endswith("Mixin")}
    return classes[registry.check(name, sorted(classes), flag=flag)]


def parameters(cls: type) -> list[str]:
    """Names of the constructor's arguments, including those that it passes on to base classes."""
    names = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        declared = inspect.signature(base.__init__).parameters.values()
        names += [p.name for p in declared if p.name not in ("self", *names)
                  and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind == p.VAR_KEYWORD for p in declared):
            break
    return names


def one_line(error: Exception) -> str:
    """What went wrong, in a guest's own words, without line breaks, also for an exception without a
    message."""
    error = error.__cause__ if isinstance(error, GuestError) else error
    return " ".join(str(error).split()) or type(error).__name__
