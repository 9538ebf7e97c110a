"""Command lines from tables of flags: parsing, help, checks of single values, stored options.

A `Flag` is a line in a table; `groups` maps a title of the help to the flags below it. Nothing here
imports torch, so that `--help` and mistakes are answered at once. Every mistake is a UserError.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utilities import registry
from utilities.errors import refuse

OPTIONS_FILE = "options.json"     # in a run's folder
SWITCH = "the flag alone, without a value"
NO_EFFECT = "accepted for compatibility, no effect"
GUEST = "pml:"      # prefix of names from pytorch-metric-learning
# Negative numbers that argparse takes for flags unless a blank stands before them.
NEGATIVE = re.compile(r"-(\d+\.|(\d+\.?\d*|\.\d+)e[+-]?\d+|inf|nan)", re.I)

Groups = Mapping[str, Sequence["Flag"]]


class Range(NamedTuple):
    """Numbers that an option may be: `low` (excluded where `above`) up to `high`, or `off`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    off: float | None = None

    def __contains__(self, value) -> bool:
        inside = self.low < value if self.above else self.low <= value
        return value == self.off or (math.isfinite(value) and inside and value <= self.high)

    def __str__(self) -> str:
        """Follows "a number" in messages."""
        words = ""
        if math.isfinite(self.low):
            words = f" above {self.low}" if self.above else f" from {self.low}"
            words += f" up to {self.high:.10g}" if math.isfinite(self.high) else (
                "" if self.above else " upwards")
        return words + (f", or {self.off} (off)" if self.off is not None else "")


ANY = Range()
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
COUNT = Range(1)
SHARE = Range(0, 1)


class Flag(NamedTuple):
    """A command-line flag.

    kind: str, int, float, dict for a JSON object, or bool for a switch; accepts: a Range, the
    accepted names, or None for any text; nargs: as argparse has it; guests: pml:<ClassName> is
    accepted beside the names.
    """

    name: str
    kind: type
    default: Any
    help: str
    accepts: Range | Collection[str] | None = None
    nargs: str | int | None = None
    guests: bool = False

    @property
    def dest(self) -> str:
        return self.name.removeprefix("--")

    @property
    def form(self) -> str:
        """What the flag takes, in words."""
        if self.kind is bool:
            return SWITCH
        if self.kind is dict:
            return """a JSON object, e.g. '{"margin": 0.1}'"""
        number = {"+": "one or more of: ", None: ""}.get(self.nargs, f"{self.nargs} of: ")
        if isinstance(self.accepts, Range):
            kind = "a whole number" if self.kind is int else "a number"
            return f"{number}{kind}{self.accepts}"
        return number + (", ".join(self.accepts) if self.accepts else "a text")

    def check(self, value: Any) -> None:
        """UserError where `value`, of a list each entry, is not accepted."""
        for entry in value if self.nargs is not None else [value]:
            if entry is None or self.accepts is None:
                continue
            if isinstance(self.accepts, Range):
                if entry not in self.accepts:
                    refuse(self.name, f"{show(entry)} given", self.form)
            elif not (self.guests and entry.startswith(GUEST)):
                registry.check(entry, self.accepts, flag=self.name)
            elif not entry.removeprefix(GUEST).isidentifier():
                refuse(self.name, f"{entry!r} names no class",
                       f"pml:<ClassName>, or {', '.join(self.accepts)}")

    def fits(self, value: Any) -> bool:
        """Whether a stored `value` is of the flag's type."""
        if self.nargs is not None:
            return isinstance(value, list) and all(map(self._replace(nargs=None).fits, value))
        if value is None:
            return self.default is None
        if self.kind is dict:
            return isinstance(value, dict)
        kinds = (int, float) if self.kind is float else self.kind
        return isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))


def by_name(groups: Groups) -> dict[str, Flag]:
    """{name without dashes: flag} of all `groups`."""
    return {flag.dest: flag for flags in groups.values() for flag in flags}


def build_parser(program: str, description: str, groups: Groups) -> argparse.ArgumentParser:
    """An argparse parser of the flags in `groups`."""
    parser = argparse.ArgumentParser(program, usage=f"{program} [--flag value ...]",
                                     description=description, allow_abbrev=False,
                                     exit_on_error=False)
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            text = flag.help.replace("%", "%%")
            if flag.kind is bool:
                group.add_argument(flag.name, action="store_true", help=text)
                continue
            if flag.accepts and not isinstance(flag.accepts, Range):
                text += f" [{', '.join(flag.accepts)}]"
            if flag.default not in (None, [], {}) and "when not given" not in flag.help:
                text += f" (default: {plain(flag.default)})"
            kind = json_object if flag.kind is dict else flag.kind
            group.add_argument(flag.name, type=kind, default=flag.default, nargs=flag.nargs,
                               metavar=flag.kind.__name__.upper(), help=text)
    return parser


def json_object(text: str) -> dict[str, Any]:
    """Reads a JSON object, for argparse."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"cannot read {text!r}")
    return value


def parse(argv: Sequence[str], program: str, description: str, groups: Groups) -> Namespace:
    """The command line as it stands, before any option is judged.

    `.given` holds the sorted names of the options that the user gave. UserError for a word that no
    flag takes, and for a value that a flag cannot read.
    """
    flags, unset = by_name(groups), object()
    parser = build_parser(program, description, groups)
    argv = [unabbreviated(word, flags) for word in argv]
    words = [f" {word}" if NEGATIVE.fullmatch(word) else word for word in argv]
    try:
        opt, rest = parser.parse_known_args(words)
        # The same once more without defaults: what is set now, the user gave.
        marked, _ = parser.parse_known_args(words, Namespace(**dict.fromkeys(flags, unset)))
    except argparse.ArgumentError as error:
        flag = flags.get(str(error.argument_name).removeprefix("--"))
        refuse(error.argument_name, error.message.replace("' -", "'-"),
               flag.form if flag else SWITCH)
    if rest:
        refuse_stray(rest[0].lstrip(), argv, flags)
    for name, value in vars(opt).items():
        if isinstance(value, str):
            setattr(opt, name, _without_blank(value))
        elif isinstance(value, list):
            setattr(opt, name, [_without_blank(entry) for entry in value])
    opt.given = sorted(name for name in flags if getattr(marked, name) is not unset)
    return opt


def _without_blank(value: Any) -> Any:
    """A text as it was given, without the blank that `parse` puts before some numbers."""
    is_marked = isinstance(value, str) and value[:1] == " " and NEGATIVE.fullmatch(value[1:])
    return value[1:] if is_marked else value


def unabbreviated(word: str, flags: Mapping[str, Flag]) -> str:
    """`word` of the command line, with an unambiguous prefix of a flag completed; UserError for a
    prefix of several flags."""
    name, equals, value = word.partition("=")
    names = [*(flag.name for flag in flags.values()), "--help"]
    if not name.startswith("--") or name == "--" or name in names:
        return word
    meant = [known for known in names if known.startswith(name)]
    if len(meant) > 1:
        refuse(name, "ambiguous", ", ".join(sorted(meant)))
    return "".join((*meant, equals, value)) if meant else word


def refuse_stray(word: str, argv: Sequence[str], flags: Mapping[str, Flag]) -> None:
    """UserError for `word` of the command line, the first that belongs to no flag."""
    if word.startswith("--") or (word.startswith("-") and not word[1:2].isdigit()):
        word = word.split("=")[0]
        close = difflib.get_close_matches(word, [flag.name for flag in flags.values()], n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        refuse(word, f"unknown flag{hint}", "the flags that --help lists")
    flag, room = None, 0        # room: how many more words the last flag takes
    for entry in argv:
        name, has_value, _ = entry.partition("=")
        if name.removeprefix("--") in flags and name.startswith("--"):
            flag = flags[name.removeprefix("--")]
            room = {None: 1, "+": len(argv)}.get(flag.nargs, flag.nargs)
            room = 0 if has_value or flag.kind is bool else room
        elif entry == word and not room:
            break
        else:
            room = max(room - 1, 0)
    if flag is None:
        refuse(repr(word), "no flag before it", "--flag value, see --help")
    refuse(flag.name, f"{word!r} is too much", flag.form)


def read_stored(path: Path, flags: Mapping[str, Flag], *, flag: str) -> dict[str, Any]:
    """The options that a run wrote to `path`, checked for names and types; defaults where it has
    none. UserError, naming `flag`, where there are no such options."""
    accepted = "the folder of an earlier run"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        refuse(flag, f"cannot read {str(path)!r} ({type(error).__name__})", accepted)
    known = {**flags, "given": Flag("--given", str, [], "names of options", nargs="+")}
    whole = (isinstance(stored, dict) and stored.keys() <= known.keys()
             and all(known[name].fits(value) for name, value in stored.items())
             and flags.keys() >= set(stored.get("given", [])))
    if not whole:
        refuse(flag, f"{str(path)!r} does not hold a run's options", accepted)
    return {name: entry.default for name, entry in known.items()} | stored


def plain(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, list):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def show(value: Any) -> str:
    """A value as messages show it."""
    return repr(value) if isinstance(value, str) else plain(value) or "none"
