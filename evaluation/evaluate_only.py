"""`--evaluate_only`: the metrics of a trained network, printed and, where asked for, written."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import architectures
import datasets
from evaluation import per_class
from evaluation.evaluator import Evaluator
from utilities import environment, setup
from utilities.distributed import ALONE, Alone
from utilities.options import first
from utilities.terminal import check_output
from utilities.tool import check_new, write_text


def evaluate_only(opt, processes: Alone = ALONE) -> int:
    """Prints the metrics of the network in `--checkpoint`, and writes `--results` and
    `--per_class`; returns 0."""
    for flag, path in (("--results", opt.results), ("--per_class", opt.per_class)):
        if path is not None:
            check_new(Path(path), flag)
    device = processes.connect(setup.device(opt))
    network, _ = architectures.load(opt.checkpoint, opt)
    select = datasets.select_all if opt.all_classes else datasets.select
    with processes.first_of_machine():
        splits = select(opt.dataset, opt)
    known = []
    if opt.all_classes:
        known = tell_seen(splits["all"], network.trained_on)
    else:
        datasets.check_unseen(splits, network.trained_on)
    evaluator = Evaluator.from_opt(opt, splits, device, processes)
    evaluator.evaluate(network.to(device), 0)
    evaluator.close()
    processes.first(lambda: write(opt, evaluator, known))
    return 0


def write(opt, evaluator: Evaluator, known: list[str]) -> None:
    """Prints the tables and writes the files that are asked for. known: see `tell_seen`."""
    print(evaluator.report(categories=True))
    check_output()
    if opt.results is not None:
        write_results(opt, evaluator, known)
    if opt.per_class is not None:
        write_text(opt.per_class, per_class.as_csv(evaluator.classes))


def tell_seen(split, trained_on: datasets.Classes | None) -> list[str]:
    """The classes of `split` on which the network was trained, which are printed."""
    if trained_on is None:
        print(datasets.NOBODY_KNOWS, flush=True)
        return []
    known = datasets.seen(split, trained_on)
    if known:
        print(f"The network was trained on {len(known):,} of the {split.n_classes:,} classes, so "
              f"these numbers are not about unseen classes alone: {first(known)}", flush=True)
    return known


def write_results(opt, evaluator: Evaluator, known: list[str]) -> None:
    """Writes what was measured to `--results`: the metrics of each split and of its categories, by
    evaltype, with what they were measured on. RunError where it cannot be written."""
    measured = evaluator.measured
    results = {
        "checkpoint": opt.checkpoint, "dataset": opt.dataset, "source_path": opt.source_path,
        "all_classes": opt.all_classes, "classes_trained_on": known,
        "splits": {split.name: split.counts for split in evaluator.splits},
        "metrics": {evaltype: {split.name: of_titles[split.name] for split in evaluator.splits}
                    for evaltype, of_titles in measured.items()},
        "categories": {evaltype: {split.name: {category: of_titles[split.title(category)]
                                               for category in split.categories}
                                  for split in evaluator.splits}
                       for evaltype, of_titles in measured.items()},
        "environment": environment.describe()}
    write_text(opt.results, json.dumps(plain(results), indent=1) + "\n")


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
