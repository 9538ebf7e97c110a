"""The grammar of `--evaltypes`: which embedding is derived from the features' heads.

    <feature>                                     the head's embedding
    Combined_<feature>_<feature>...[-<w>-<w>...]  weighted concatenation
    Sum_<feature>_<feature>...[-<w>-<w>...]       weighted sum

Weights are positive decimal numbers, one for each feature in order; without them all are 1.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import criteria
import datasets
from utilities.errors import refuse

MODES = ("Combined", "Sum")
WEIGHT = re.compile(r"[0-9]+(\.[0-9]+)?")
# Weights that `all` stands for, by the number of features.
PUBLISHED = {
    2: ("1-1", "1-0.5", "0.5-1"),
    3: ("1.5-1-1", "1-1-1", "0.5-1-1"),
    4: ("0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5"),
}


class Evaltype(NamedTuple):
    """What an evaltype says: `Sum_shared_intra-1-0.5` -> ("Sum", ("shared", "intra"), (1, 0.5))."""

    mode: str  # "single", "Combined" or "Sum"
    names: tuple[str, ...]
    weights: tuple[float, ...]


def parse(evaltype: str, features: Sequence[str], flag: str = "--evaltypes") -> Evaltype:
    """Reads `evaltype`; UserError, naming `flag`, where it is malformed or names a feature not in
    `features`."""
    mode, _, rest = evaltype.partition("_")
    if mode not in MODES:
        _check_features(evaltype, (evaltype,), features, flag)
        return Evaltype("single", (evaltype,), (1.0,))
    joined, *weights = rest.split("-")
    names = _split(joined, features)
    _check_features(evaltype, names, features, flag)
    if len(names) < 2 or len(set(names)) < len(names):
        refuse(flag, f"{evaltype!r} given",
               f"two or more different features behind {mode}_")
    if len(weights) not in (0, len(names)):
        refuse(flag, f"{evaltype!r} gives the weights {' '.join(weights)}",
               f"one for each of its {len(names)} features, or none")
    for weight in weights:
        if not WEIGHT.fullmatch(weight) or not 0 < float(weight) < math.inf:
            refuse(flag, f"{evaltype!r} has the weight {weight!r}",
                   "positive numbers such as 0.75")
    return Evaltype(mode, names, tuple(map(float, weights)) or (1.0,) * len(names))


def _split(joined: str, features: Sequence[str]) -> tuple[str, ...]:
    """Splits at each _ but those inside the name of a feature; the longest name that fits wins."""
    names = sorted({*criteria.FEATURES, *features}, key=len, reverse=True)
    known = "|".join(map(re.escape, names))
    return tuple(re.findall(rf"(?:^|_)((?:{known})(?=_|\Z)|[^_]*)", joined))


def n_heads(evaltype: str, features: Sequence[str]) -> int:
    """The width of the embedding of `evaltype`, in heads."""
    mode, names, _ = parse(evaltype, features)
    return len(names) if mode == "Combined" else 1


def expand(evaltypes: Sequence[str], features: Sequence[str], dataset: str) -> list[str]:
    """`evaltypes` with `all` replaced by the published combinations of `features`, each once.

    For four features, cars196 has further published weights and online_products has others.
    """
    expanded: dict[str, None] = {}
    for evaltype in evaltypes:
        for name in _published(features, dataset) if evaltype == "all" else [evaltype]:
            parse(name, features)
            expanded[name] = None
    return list(expanded)


def _published(features: Sequence[str], dataset: str) -> list[str]:
    if len(features) == 1:
        return list(features)
    weights = PUBLISHED.get(len(features), ("-".join("1" * len(features)),))
    if len(features) == 4:
        weights = datasets.HEAD_WEIGHTS.get(dataset, weights)
    return [f"Combined_{'_'.join(features)}-{w}" for w in weights]


def _check_features(evaltype: str, names: Sequence[str], features: Sequence[str],
                    flag: str) -> None:
    for name in names:
        if name not in features:
            culprit = "" if name == evaltype else f" names {name!r}, which"
            refuse(flag, f"{evaltype!r}{culprit} is not among --diva_features",
                   "all, " * (flag == "--evaltypes") + f"{', '.join(features)}, and Combined_ or "
                   "Sum_ of these, joined by _, with weights -<w>-<w>... behind")
