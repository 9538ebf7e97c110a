"""`python -m evaluation.summarize`: runs that differ in the seed, as means with intervals.

Of n seeds: the mean, the standard deviation s of the sample (divided by n - 1), and the 95 %
confidence interval of the mean, mean +- t s / sqrt(n), with Student's t of n - 1 degrees of
freedom. `--compare` takes the same of the differences of two groups, seed by seed.
"""

from pathlib import Path

from utilities import terminal, tool
from utilities.options import Flag

PROGRAM = "evaluation.summarize"
DESCRIPTION = "Summarise runs over their seeds: mean, standard deviation and 95 % interval."
FORMATS = ("text", "markdown", "latex", "csv")
FLAGS = (
    Flag("folders", Path, [], "folders of runs, or folders that hold such; runs of one dataset and "
         "--group that differ in the seed are summarised together", nargs="+"),
    Flag("--format", str, "text", "form of the table", FORMATS),
    Flag("--compare", str, [], "two groups: the differences B - A over their common seeds; "
         "<group>:<evaltype> takes one evaltype of a group, otherwise those in common are compared",
         nargs=2),
    Flag("--wandb", str, None, "read the runs of this project of Weights & Biases, "
         "<entity>/<project>"),
)

if __name__ == "__main__":
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import math
import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

from scipy import special

from evaluation import runs
from evaluation.runs import Run
from utilities.errors import refuse
from utilities.logger import csv_text
from utilities.options import show

# Options that may differ inside a group: the seed, the machine, and where things lie and go.
FREE = {"seed", "savename", "source_path", "save_path", "device", "gpu", "kernels",
        "cache", "channels_last", "compile", "deterministic", "evaluate_on_gpu", "evaluate_on_cpu",
        "plots", "map", "save_every", "log_every", "log_online", "wandb_mode",
        "wandb_entity", "project", "resume", "given", "environment"}
PROBABILITY = 0.95
# Recall@1, @2 (SOP: @10) and NMI as the paper reports them, by dataset and --group of SampleRuns.
PAPER = {
    ("cub200", "CUB_DiVA-R50-512"): {"e_recall@1": 0.692, "e_recall@2": 0.793, "nmi": 0.714},
    ("cub200", "CUB_DiVA-IBN-512"): {"e_recall@1": 0.668, "e_recall@2": 0.777, "nmi": 0.700},
    ("cars196", "CAR_DiVA-R50-512"): {"e_recall@1": 0.876, "e_recall@2": 0.929, "nmi": 0.722},
    ("cars196", "CAR_DiVA-IBN-512"): {"e_recall@1": 0.841, "e_recall@2": 0.907, "nmi": 0.687},
    ("online_products", "SOP_DiVA-R50-512"): {"e_recall@1": 0.796, "e_recall@10": 0.912,
                                              "nmi": 0.906},
    ("online_products", "SOP_DiVA-IBN-512"): {"e_recall@1": 0.781, "e_recall@10": 0.906,
                                              "nmi": 0.904},
}
HEADER = ("split", "evaltype", "epoch", "metric", "mean", "std", "95 % interval", "seeds", "paper")


class Summary(NamedTuple):
    """Of n values: std and half (of the interval) are None where n is 1."""

    mean: float
    std: float | None
    half: float | None
    n: int


class Table(NamedTuple):
    """title; notes: lines on how the numbers came about; rows: their key and summary; paper: what
    the paper reports, {metric: value}; chosen_on: the split of the best epochs."""

    title: str
    notes: list[str]
    rows: dict[runs.Key, Summary]
    paper: dict[str, float]
    chosen_on: str

    def in_paper(self, key: runs.Key) -> float | None:
        """What the paper reports, which is of the best epochs on the test split."""
        split, _, epoch, metric = key
        return self.paper.get(metric) if split == "Test" and epoch != "last" else None


def main(arguments: Namespace) -> None:
    if not arguments.folders and arguments.wandb is None:
        refuse("folders", "none given", "folders of runs, or --wandb <entity>/<project>")
    found = [runs.read(folder, "folders") for folder in runs.folders(arguments.folders, "folders")]
    if arguments.wandb is not None:
        found += runs.from_wandb(arguments.wandb)
    groups = grouped(found)
    if arguments.compare:
        tables = compared(groups, *arguments.compare)
    else:
        tables = [table(*name, seeds) for name, seeds in groups.items()]
    write = {"text": text, "markdown": markdown, "latex": latex, "csv": as_csv}[arguments.format]
    print(write(tables))


def grouped(found: Sequence[Run]) -> dict[tuple[str, str], dict[int, Run]]:
    """{(dataset, group): {seed: run}}; UserError where runs of a group differ in more than the
    seed, and where a seed is there twice."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        name = str(run.options.get("dataset")), str(run.options.get("group"))
        groups.setdefault(name, []).append(run)
    seeds = {}
    for (dataset, group), members in sorted(groups.items()):
        check_options(f"the runs of --group {group!r} on {dataset}", members)
        by_seed: dict[int, Run] = {}
        for run in members:
            other = by_seed.setdefault(run.options.get("seed"), run)
            if other is not run:
                refuse("folders", f"{other.where!r} and {run.where!r} have the same seed, "
                       f"{show(run.options.get('seed'))}", "one run for each seed")
        seeds[dataset, group] = dict(sorted(by_seed.items()))
    return seeds


def check_options(who: str, members: Sequence[Run]) -> None:
    """UserError, naming the options, where they are not those of one experiment."""
    names = sorted({name for run in members for name in run.options} - FREE)
    different = []
    for name in names:
        values: dict[str, str] = {}
        for run in members:
            value = show(run.options[name]) if name in run.options else "absent"
            values.setdefault(value, run.where)
        if len(values) > 1:
            different.append(f"--{name} (" + ", ".join(
                f"{value} in {where!r}" for value, where in values.items()) + ")")
    if different:
        refuse("folders", f"{who} differ in more than the seed: {', '.join(different)}",
               "runs of other options under another --group, or left out")
    known = [run for run in members if run.data]
    for run in known:
        if run.data != known[0].data:
            refuse("folders", f"{who} were trained or tested on other images: "
                   f"{known[0].where!r}, {run.where!r}", "runs on the same images")


def summary(values: Sequence[float]) -> Summary:
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Summary(mean, None, None, 1)
    std = statistics.stdev(values)
    t = float(special.stdtrit(n - 1, (1 + PROBABILITY) / 2))
    return Summary(mean, std, t * std / math.sqrt(n), n)


def table(dataset: str, group: str, seeds: dict[int, Run]) -> Table:
    """The summary of a group."""
    keys = dict.fromkeys(key for run in seeds.values() for key in run.values)
    rows = {key: summary([run.values[key] for run in seeds.values() if key in run.values])
            for key in ordered(keys)}
    return Table(f"{group} on {dataset}", notes(seeds), rows, PAPER.get((dataset, group), {}),
                 next(iter(seeds.values())).chosen_on)


def ordered(keys) -> list[runs.Key]:
    """Split by split, each before its categories; in each evaltype by evaltype, the best epochs
    before the last."""
    place = {name: i for i, name in enumerate(dict.fromkeys(key[1] for key in keys))}
    return sorted(keys, key=lambda key: (runs.SPLITS.index(key[0].partition(", ")[0]), key[0],
                                         place[key[1]], key[2] == "last", key[2]))


def notes(seeds: dict[int, Run]) -> list[str]:
    run = next(iter(seeds.values()))
    names = " and ".join(run.options.get("storage_metrics", ()))
    lines = [f"Seeds: {', '.join(map(str, seeds))}. Epochs of each run: "
             f"{run.options.get('n_epochs')}.", "Best epochs were chosen by "
             + (f"{names} on the validation split." if run.chosen_on == "Val" else
                f"{names} on test data, as papers of the field do: they are maxima over epochs.")]
    lines += [f"Unfinished: seed {seed} has trained {run.epochs} epochs."
              for seed, run in seeds.items() if run.epochs < run.options.get("n_epochs", 0)]
    if len(seeds) == 1:
        lines.append("One seed has no standard deviation and no interval.")
    return lines


def compared(groups: dict[tuple[str, str], dict[int, Run]], a: str, b: str) -> list[Table]:
    """B - A over the common seeds, for each dataset that has both; UserError where none has."""
    known = sorted({group for _, group in groups})
    (name_a, of_a), (name_b, of_b) = (side(words, known) for words in (a, b))
    tables = []
    for dataset in dict.fromkeys(dataset for dataset, _ in groups):
        one, other = groups.get((dataset, name_a)), groups.get((dataset, name_b))
        if one is None or other is None:
            continue
        seeds = [seed for seed in one if seed in other]
        if not seeds:
            refuse("--compare", f"{name_a!r} and {name_b!r} on {dataset} have no seed in common",
                   "groups that were run with the same seeds")
        tables.append(difference(f"{b} - {a} on {dataset}", {seed: one[seed] for seed in seeds},
                                 {seed: other[seed] for seed in seeds}, of_a, of_b))
    if not tables:
        refuse("--compare", f"{name_a!r} and {name_b!r} were run on no common dataset",
               "groups on the same dataset")
    return tables


def side(words: str, known: Sequence[str]) -> tuple[str, str | None]:
    """(group, evaltype or None) of `words`; UserError for a group that is not there."""
    group, _, evaltype = words.partition(":")
    if words in known or group not in known:
        group, evaltype = words, ""
    if group not in known:
        refuse("--compare", f"no run of group {words!r} was read", ", ".join(known))
    return group, evaltype or None


def difference(title: str, one: dict[int, Run], other: dict[int, Run], of_a: str | None,
               of_b: str | None) -> Table:
    """The paired differences of two groups with the same seeds."""
    a, b = (next(iter(group.values())) for group in (one, other))
    tested = [{name: images for name, images in run.data.items() if name.startswith("testing")}
              for run in (a, b)]
    if all(tested) and tested[0] != tested[1]:
        refuse("--compare", f"{a.where!r} and {b.where!r} were tested on other images",
               "groups with the same test split")
    rows = {}
    for key in ordered(b.values):
        same = (key[0], of_a or key[1], *key[2:])
        whole = [other[seed].values[key] - one[seed].values[same] for seed in one
                 if key in other[seed].values and same in one[seed].values]
        if whole and of_b in (None, key[1]):
            rows[key] = summary(whole)
    if not rows:
        have = [", ".join(dict.fromkeys(key[1] for key in run.values)) for run in (a, b)]
        refuse("--compare", f"no evaltype in common: {have[0]}; {have[1]}",
               "<group>:<evaltype> for both")
    changed = [f"--{name} ({show(a.options.get(name))}, {show(b.options.get(name))})"
               for name in sorted((a.options.keys() | b.options.keys()) - FREE - {"group"})
               if a.options.get(name) != b.options.get(name)]
    lines = [f"Options that differ: {', '.join(changed) or 'none'}."]
    return Table(title, [*notes(other), *lines], rows, {}, b.chosen_on)


def cells(table: Table, key: runs.Key, row: Summary) -> list[str]:
    """A row as text, in the order of HEADER."""
    number = "{:.4f}".format
    std, interval = "-", "-"
    if row.half is not None:
        std = number(row.std)
        interval = f"{number(row.mean - row.half)} to {number(row.mean + row.half)}"
    paper = table.in_paper(key)
    return [*key, number(row.mean), std, interval, str(row.n),
            "-" if paper is None else f"{paper:.3f}"]


def shown(table: Table, *, from_column: int = 0) -> tuple[list[str], list[list[str]]]:
    """Header and rows from a column on, without the paper's column where it reports nothing."""
    stop = len(HEADER) - (not table.paper)
    return list(HEADER[from_column:stop]), [cells(table, key, row)[from_column:stop]
                                            for key, row in table.rows.items()]


def text(tables: Sequence[Table]) -> str:
    """For the terminal: a block for each split and evaltype."""
    lines = []
    for table in tables:
        lines += [table.title, *table.notes]
        header, rows = shown(table, from_column=2)
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        before = None
        for key, row in zip(table.rows, rows, strict=True):
            if key[:2] != before:
                before = key[:2]
                lines += ["", f"{before[0]}: {before[1]}", aligned(header, widths)]
            lines.append(aligned(row, widths))
        lines.append("")
    return "\n".join(lines).rstrip()


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(cell.ljust(width) for cell, width in
                            zip(row, widths, strict=True)).rstrip()


def markdown(tables: Sequence[Table]) -> str:
    lines = []
    for table in tables:
        header, rows = shown(table)
        lines += [f"## {table.title}", "", *(f"- {note}" for note in table.notes), ""]
        lines += [f"| {' | '.join(row)} |" for row in
                  ([cell.replace("|", "\\|") for cell in row]
                   for row in (header, ["---"] * len(header), *rows))]
        lines.append("")
    return "\n".join(lines).rstrip()


SPECIAL = str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
                         "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"})


def latex(tables: Sequence[Table]) -> str:
    """A tabular for each group, for the packages that every installation has."""
    lines = []
    for table in tables:
        header, rows = shown(table)
        lines += [f"% {table.title}", rf"\begin{{tabular}}{{{'l' * 4}{'r' * (len(header) - 4)}}}",
                  r"\hline"]
        for row in (header, *rows):
            lines.append(" & ".join(cell.translate(SPECIAL) for cell in row) + r" \\")
            if row is header:
                lines.append(r"\hline")
        lines.append(r"\hline")
        lines += [rf"\multicolumn{{{len(header)}}}{{l}}{{{note.translate(SPECIAL)}}} \\"
                  for note in (table.title, *table.notes)]
        lines += [r"\end{tabular}", ""]
    return "\n".join(lines).rstrip()


def as_csv(tables: Sequence[Table]) -> str:
    """All groups in one table, with all digits; chosen_on says on which split the best epochs were
    chosen."""
    lines = [["runs", "chosen_on", *HEADER[:4], "mean", "std", "low", "high", "seeds", "paper"]]
    for table in tables:
        for note in table.notes:
            print(f"{table.title}: {note}", file=sys.stderr)
        for key, row in table.rows.items():
            ends = [None] * 3 if row.half is None else [row.std, row.mean - row.half,
                                                        row.mean + row.half]
            lines.append([table.title, table.chosen_on, *key, row.mean, *ends, row.n,
                          table.in_paper(key)])
    return csv_text(lines).rstrip()


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
