"""Which training images validate: `--train_val_split` and `--val_folds`."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from datasets import Samples, held_out_by
from utilities.errors import refuse


def hold_out(samples: dict[str, Samples], opt) -> dict[str, Samples]:
    """Moves the training images that the options hold out into a validation split, of query and
    gallery where the test images are, and prints the share of the images that stays."""
    flag, value = held_out_by(opt)
    if value == 1:
        return samples
    if "validation" in samples:
        refuse(flag, f"{value:g} given, but the dataset has a folder 'val' of images that validate",
               f"no {flag}, or the folder without 'val'")
    has_queries = "testing_query" in samples
    by_class = {}
    for sample in samples["training"]:
        by_class.setdefault(sample[1], []).append(sample)
    groups, held_out = cut(list(by_class.values()), opt, has_queries)
    training, n_images = list(chain.from_iterable(groups)), len(samples["training"])
    fold = "" if opt.val_fold is None else f" --val_fold {opt.val_fold}"
    print(f"{flag} {value:g}{fold}: {len(training):,} of {n_images:,} training images stay, a "
          f"share of {len(training) / max(1, n_images):.3f}", flush=True)
    if not has_queries:
        return samples | {"training": training, "validation": list(chain.from_iterable(held_out))}
    return samples | {
        "training": training,
        "validation_query": list(chain.from_iterable(group[1::2] for group in held_out)),
        "validation_gallery": list(chain.from_iterable(group[::2] for group in held_out))}


def cut(groups: list[Samples], opt, has_queries: bool) -> tuple[list[Samples], list[Samples]]:
    """The samples of each class -> groups that train, groups that validate. UserError where there
    are more folds than classes."""
    n, share = len(groups), opt.train_val_split
    if opt.val_folds is not None:
        if n < opt.val_folds:
            refuse("--val_folds", f"{opt.val_folds} given, but the dataset has {n} training "
                   f"class{'es' * (n != 1)}", "at most one fold for each")
        block = np.array_split(range(n), opt.val_folds)[opt.val_fold]
        start, stop = block[0], block[-1] + 1
        return groups[:start] + groups[stop:], groups[start:stop]
    if opt.train_val_split_by_class or has_queries:
        return divide(groups, max(1, round(share * n)))
    divided = [divide(group, len(group) - n_held_out(len(group), share)) for group in groups]
    return [kept for kept, _ in divided], [others for _, others in divided]


def n_held_out(n: int, share: float) -> int:
    """How many of a class's n images validate; at least one stays in training. A single image that
    validates has no other to find: then two validate where two stay in training, else none.
    """
    held_out = min(round((1 - share) * n), n - 1)
    if held_out == 1:
        return 2 if n >= 4 else 0
    return held_out


def divide(items: Sequence, k: int) -> tuple[list, list]:
    """k of the items, as evenly spaced as possible; the others."""
    n = len(items)
    kept = {(2 * i + 1) * n // (2 * k) for i in range(k)}
    return ([item for i, item in enumerate(items) if i in kept],
            [item for i, item in enumerate(items) if i not in kept])
