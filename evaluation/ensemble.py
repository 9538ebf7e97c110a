"""`python -m evaluation.ensemble`: several runs, each alone and all together.

As "A Metric Learning Reality Check" reports them (Musgrave et al. 2020, arXiv 2003.08505): separate
is the mean of the runs' metrics; concatenated are those of one embedding, in which the runs'
embeddings, each of unit length, stand side by side.
"""

from pathlib import Path

from evaluation import tools
from utilities import terminal, tool
from utilities.options import Flag

PROGRAM = "evaluation.ensemble"
DESCRIPTION = "Evaluate the best checkpoints of several runs, separately and concatenated."
FLAGS = (
    Flag("folders", Path, [], "folders of two runs or more, or folders that hold such",
         nargs="+", required=True),
    Flag("--evaltype", str, None, "embedding to take of each run: one of its evaltypes, of which "
         "it kept the best checkpoint; when not given: its first"),
    Flag("--evaluation_metrics", str, [], "metrics to compute, as of diva_main.py; when not given: "
         "those of the first run", nargs="+"),
    tools.SOURCE_PATH, tools.SKIP, *tools.MACHINE,
)

if __name__ == "__main__":      # before torch is imported
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import metrics
from evaluation import best, runs
from evaluation.evaluator import Split, score, table
from utilities.errors import refuse


class Member(NamedTuple):
    """A run's test split, and its embeddings of the split's loaders, (N, D) each."""

    name: str
    split: Split
    points: list[Tensor]


def main(arguments: Namespace) -> None:
    folders = runs.folders(arguments.folders, "folders")
    if len(folders) < 2:
        refuse("folders", f"{len(folders)} run given", "two or more")
    for name in arguments.evaluation_metrics:
        if metrics.is_array(name):
            refuse("--evaluation_metrics", f"{name!r} is an array", "any metric that is a number")
    read = [runs.read(folder, "folders") for folder in folders]
    evaltypes = [arguments.evaltype or run.options["evaltypes"][0] for run in read]
    paths = [best.checkpoint(run.where, run.options, evaltype, "folders")
             for run, evaltype in zip(read, evaltypes, strict=True)]
    names = arguments.evaluation_metrics or [
        *read[0].options["evaluation_metrics"], *read[0].options["storage_metrics"]]
    names = [name for name in dict.fromkeys(names) if not metrics.is_array(name)]
    networks, splits, members = [], [], []
    for path in paths:
        network, split = best.opened(path, arguments)
        networks.append(network.cpu())      # a GPU holds one of them at a time
        splits.append(split)
    check_same_images(folders, splits)
    for path, evaltype, network, split in zip(paths, evaltypes, networks, splits, strict=True):
        points = best.embedded(network.to(split.queries.device), split, evaltype)
        network.cpu()
        members.append(Member(f"{path.parent.name}: {evaltype}", split, points))
    print(report(members, names))


def check_same_images(folders: Sequence[Path], splits: Sequence[Split]) -> None:
    """UserError where the runs in `folders` have different test images."""
    images = [[loader.dataset.digest for loader in split.loaders] for split in splits]
    for folder, of_run in zip(folders, images, strict=True):
        if of_run != images[0]:
            refuse("folders", f"the runs in {str(folders[0])!r} and {str(folder)!r} have different "
                   "test images", "runs with the same test split")


def report(members: Sequence[Member], names: Sequence[str]) -> str:
    """A table of each run, of their mean and standard deviation, and of the concatenation."""
    split, device = members[0].split, members[0].points[0].device
    separate = [score(names, split, of.points, device)[0].values for of in members]
    joined = concatenated([of.points for of in members])
    together = score(names, split, joined, device)[0].values
    means = {name: statistics.fmean(values[name] for values in separate) for name in names}
    stds = {name: statistics.stdev(values[name] for values in separate) for name in names}
    rows = [(of.name, values) for of, values in zip(members, separate, strict=True)]
    rows += [("separate, mean", means), ("separate, standard deviation", stds),
             (f"concatenated, {joined[0].shape[1]} dimensions", together)]
    return table(f"Test, {len(members)} runs", rows)


def concatenated(points: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """points[run][loader] (N, D_run) -> for each loader (N, sum of D_run), unit length."""
    return [F.normalize(torch.cat([F.normalize(rows) for rows in sides], dim=1))
            for sides in zip(*points, strict=True)]


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
