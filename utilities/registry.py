"""Registries: literal dicts from a name to a module, imported only when selected."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

from utilities.errors import refuse


def check(name: str, known: Iterable[str], *, flag: str) -> str:
    """Returns `name`; UserError, naming `flag` and what is accepted, when it is not known."""
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        refuse(flag, f"unknown {name!r}{hint}", f"{', '.join(known)}")
    return name


def load(table: dict[str, str], name: str, *, flag: str) -> ModuleType:
    """The module behind `name` in `table`; UserError, naming `flag`, when there is none."""
    return importlib.import_module(table[check(name, table, flag=flag)])
