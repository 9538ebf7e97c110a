"""Command lines from tables of flags: reading, help, checks of single values, stored options.

A `Flag` is a line in a table; `groups` maps a title of the help to the flags below it. One whose
name has no dashes takes the words that belong to no flag. argparse prints the help. Nothing here
imports torch. Every mistake is a UserError.
"""

import argparse
import difflib
import json
import math
import os
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utilities import registry
from utilities.errors import refuse
from utilities.files import fault

OPTIONS_FILE = "options.json"     # in a run's folder
SWITCH = "the flag alone, without a value"
NO_EFFECT = "accepted for compatibility, no effect"
MOST = 2**31 - 1    # of whole numbers without another bound
GUEST = "pml:"      # prefix of names from pytorch-metric-learning

Groups = Mapping[str, Sequence["Flag"]]


class Range(NamedTuple):
    """Numbers that an option may be: `low` (excluded where `above`) up to `high` (excluded where
    `below`), or `off`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    off: float | None = None
    below: bool = False

    def __contains__(self, value) -> bool:
        inside = ((self.low < value if self.above else self.low <= value)
                  and (value < self.high if self.below else value <= self.high))
        return value == self.off or (abs(value) < math.inf and inside)

    def __str__(self) -> str:
        """Follows "a number" in messages."""
        words = ""
        if math.isfinite(self.low):
            words = f" above {self.low}" if self.above else f" from {self.low}"
            end = "and below" if self.below else "up to"
            words += f" {end} {self.high:.10g}" if math.isfinite(self.high) else (
                "" if self.above else " upwards")
        return words + (f", or {self.off} (off)" if self.off is not None else "")


ABOVE_0 = Range(0, above=True)
FROM_0 = Range(0)
FROM_1 = Range(1)
SHARE = Range(0, 1)


class Flag(NamedTuple):
    """A command-line flag.

    kind: str, int, float, Path, dict for a JSON object, or bool for a switch; accepts: a Range, the
    accepted names, or None for any text; nargs: as argparse has it; guests: pml:<ClassName> is
    accepted beside the names; required: for tools, which refuse a command line without it.
    """

    name: str
    kind: type
    default: Any
    help: str
    accepts: Range | Collection[str] | None = None
    nargs: str | int | None = None
    guests: bool = False
    required: bool = False

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
        anything = "a path" if self.kind is Path else "a text"
        return number + (", ".join(self.accepts) if self.accepts else anything)

    @property
    def n_words(self) -> tuple[float, float]:
        """The smallest and the largest number of words that may follow the flag."""
        if self.kind is bool:
            return 0, 0
        return {None: (1, 1), "+": (1, math.inf)}.get(self.nargs, (self.nargs, self.nargs))

    def read(self, words: Sequence[str]) -> Any:
        """The value that the `words` behind the flag give; UserError where they are too few, too
        many or of another kind."""
        least, most = self.n_words
        if len(words) < least:
            expected = {None: "one argument", "+": "at least one argument"}.get(
                self.nargs, f"{self.nargs} arguments")
            refuse(self.name, f"expected {expected}", self.form)
        if len(words) > most:
            refuse(self.name, f"{words[most]!r} is too much", self.form)
        values = [self._read_word(word) for word in words] or [True]
        return values[0] if self.nargs is None else values

    def _read_word(self, word: str) -> Any:
        if self.kind is Path and not word:
            refuse(self.name, "'' given", self.form)
        try:
            value = (json.loads(word) if self.kind is dict else
                     self.kind(os.path.expanduser(word) if self.kind is Path else word))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, self.kind):
            refuse(self.name, f"cannot read {word!r}" if self.kind is dict else
                   f"invalid {self.kind.__name__} value: {word!r}", self.form)
        return value

    def check(self, value: Any) -> None:
        """UserError where `value`, of a list each entry, is not accepted."""
        for entry in value if self.nargs is not None else [value]:
            if entry is None or self.accepts is None:
                continue
            if isinstance(self.accepts, Range):
                if entry not in self.accepts:
                    refuse(self.name, f"{show(entry)} given", self.form)
                if self.kind is int and entry > MOST and self.accepts.high == math.inf:
                    refuse(self.name, f"{entry} given", f"a whole number up to {MOST}")
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


HELP = Flag("-h/--help", bool, False, "show this help message and exit")


def parse(argv: Sequence[str], program: str, description: str, groups: Groups) -> Namespace:
    """The command line as it stands, before any option is judged; prints the help and exits where
    that is asked for.

    `.given` holds the sorted names of the options that the user gave. UserError for a word that no
    flag takes, and for a value that a flag cannot read.
    """
    flags = by_name(groups)
    known = {flag.name: flag for flag in flags.values() if is_flag(flag.name)} | {
        "--help": HELP, "-h": HELP}
    loose = [(flag, []) for flag in flags.values() if not is_flag(flag.name)]
    if any(word == "-h" or (len(word) > 2 and "--help".startswith(word)) for word in argv):
        print_help(program, description, groups)
        raise SystemExit(0)
    found: list[tuple[Flag, list[str]]] = []
    for word in argv:
        if is_flag(word):
            name, equals, value = word.partition("=")
            flag = find(name, known)
            if equals and flag.kind is bool:
                refuse(flag.name, f"ignored explicit argument {value!r}", flag.form)
            found.append((flag, behind_equals(flag, value) if equals else []))
        elif found and (not loose or len(found[-1][1]) < found[-1][0].n_words[1]):
            found[-1][1].append(word)
        elif loose:
            loose[0][1].append(word)
        else:
            refuse(repr(word), "no flag before it", "--flag value, see --help")
    found += [entry for entry in loose if entry[1]]
    opt = Namespace(**{name: flag.default for name, flag in flags.items()})
    for flag, words in found:
        setattr(opt, flag.dest, flag.read(words))
    opt.given = sorted({flag.dest for flag, _ in found})
    return opt


def is_flag(word: str) -> bool:
    """Whether `word` of the command line is meant as a flag: it begins with a dash and is no
    number."""
    try:
        float(word)
    except ValueError:
        return word.startswith("-") and word != "-"
    return False


def behind_equals(flag: Flag, value: str) -> list[str]:
    """The words that `--flag=value` gives the flag: one, or those of a list, which an agent of
    Weights & Biases writes as Python does: `['a', 'b']`."""
    if flag.nargs is None or not (value.startswith("[") and value.endswith("]")):
        return [value]
    return [word.strip().strip("'\"") for word in value[1:-1].split(",") if word.strip()]


def find(name: str, known: Mapping[str, Flag]) -> Flag:
    """The flag called `name`, which may be an unambiguous prefix; UserError for any other name."""
    if name in known:
        return known[name]
    whole = [other for other in known if other.startswith("--")]
    meant = [other for other in whole if name.startswith("--") and other.startswith(name)]
    if len(meant) > 1:
        refuse(name, "ambiguous", ", ".join(sorted(meant)))
    if not meant:
        close = difflib.get_close_matches(name, whole, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        refuse(name, f"unknown flag{hint}", "the flags that --help lists")
    return known[meant[0]]


def print_help(program: str, description: str, groups: Groups) -> None:
    """Prints every flag with its help, accepted names and default."""
    loose = "".join(f"{flag.name.upper()} ... " for flag in by_name(groups).values()
                    if not is_flag(flag.name))
    parser = argparse.ArgumentParser(program, usage=f"{program} {loose}[--flag value ...]",
                                     description=description)
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
            metavar = flag.kind.__name__ if is_flag(flag.name) else flag.name
            group.add_argument(flag.name, nargs=flag.nargs, metavar=metavar.upper(), help=text)
    parser.print_help()


def read_stored(path: Path, flags: Mapping[str, Flag], *, flag: str) -> dict[str, Any]:
    """The options that a run wrote to `path`, checked for names and types; defaults where it has
    none. UserError, naming `flag`, where there are no such options."""
    accepted = "the folder of an earlier run"
    if wrong := fault(path, "file"):
        refuse(flag, f"{str(path)!r} {wrong}", accepted)
    try:
        stored = whole(json.loads(path.read_text(encoding="utf-8")), flags)
    except (OSError, ValueError, RecursionError) as error:
        refuse(flag, f"cannot read {str(path)!r} ({type(error).__name__})", accepted)
    if stored is None:
        refuse(flag, f"{str(path)!r} does not hold a run's options", accepted)
    return stored


def whole(stored: Any, flags: Mapping[str, Flag]) -> dict[str, Any] | None:
    """The options `stored` by a run, with defaults where it has none; None where names or types
    are not those of `flags`."""
    if not isinstance(stored, dict):
        return None
    known = {**flags, "given": Flag("--given", str, [], "names of options", nargs="+")}
    stored = {name: in_this_encoding(value) for name, value in stored.items()}
    fits = (stored.keys() <= known.keys()
            and all(known[name].fits(value) for name, value in stored.items())
            and flags.keys() >= set(stored.get("given", [])))
    return {name: entry.default for name, entry in known.items()} | stored if fits else None


def in_this_encoding(value: Any) -> Any:
    """A text as this process decodes it from bytes, where another may have taken paths as ASCII."""
    if isinstance(value, str):
        return os.fsdecode(value.encode(errors="surrogateescape"))
    return value


def plain(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, list):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def first(names: Sequence[str], n: int = 10) -> str:
    """The first `n` of `names` as messages show them."""
    more = f" and {len(names) - n:,} more" if len(names) > n else ""
    return ", ".join(map(repr, names[:n])) + more


def show(value: Any) -> str:
    """A value as messages show it."""
    return repr(value) if isinstance(value, str) else plain(value) or "none"
