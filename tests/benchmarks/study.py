"""The study of `SampleRuns/Study.sh`: its numbers, a row each, and its tables.

    python tests/benchmarks/study.py add <run folder> --stage <stage> [--shops <folder of datasets>]
    python tests/benchmarks/study.py untrained <options as for diva_main.py>
    python tests/benchmarks/study.py tables

`add` reads a finished run into study.csv beside this file. A run with validation classes gives
their metrics after every evaluated epoch and none of the test split; another run the metrics of the
test split after its last epoch, those of `grocery_shops` (queries against the gallery, images of
another shop) and the linear CKA of each pair of heads on the test split (Kornblith et al. 2019,
arXiv 1905.00414). `untrained` measures the trunk with which runs of these options begin. Reading a
run again replaces its rows.
"""

import argparse
import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from filelock import FileLock

import architectures
import datasets
import parameters
from evaluation import history, runs
from evaluation.embedding import derive
from evaluation.evaluator import Split, score
from evaluation.summarize import summary
from utilities import checkpoint, run_folder, setup
from utilities.embedding import embed
from utilities.geometry import unit
from utilities.logger import csv_text

FILE = Path(__file__).with_name("study.csv")
COLUMNS = ("stage", "group", "seed", "epoch", "of", "evaltype", "metric", "value")
METRICS = ("e_recall@1", "mAP_r", "nmi")
SHOP_METRICS = METRICS[:2]
# (group, evaltype) of the settings compared in the README: of four epochs, then of eight.
HEADS = "Combined_discriminative_selfsimilarity_shared_intra"
ENSEMBLE_HEADS = "Combined_discriminative_ensemble_1_ensemble_2_ensemble_3"
MARGIN = ("margin", "discriminative")
PROXY_ANCHOR = ("proxy_anchor", "discriminative")
MULTISIMILARITY = ("multisimilarity", "discriminative")
ENSEMBLE = ("ensemble", f"{ENSEMBLE_HEADS}-1-1-1-1")
CORRELATED = ("diva_correlated", f"{HEADS}-1-1-1-1")
DIVA = ("diva", f"{HEADS}-1-1-1-1")
MOCO = ("moco_t0.1", f"{HEADS}-1-1-1-1")
BESIDE = [(f"discriminative_{feature}", f"Combined_discriminative_{feature}-1-1")
          for feature in ("selfsimilarity", "shared", "intra")]
MARGIN_8, MULTISIMILARITY_8, ENSEMBLE_8, DIVA_8 = (
    (f"{group}_long", evaltype)
    for group, evaltype in (MARGIN, MULTISIMILARITY, ENSEMBLE, DIVA))
SETTINGS = {
    "untrained trunk, 1280": ("untrained", "trunk"),
    "margin alone, 512": MARGIN,
    "Proxy Anchor, 512": PROXY_ANCHOR,
    "MultiSimilarity, 512": MULTISIMILARITY,
    "four heads by margin, 4 x 128": ENSEMBLE,
    "DiVA without decorrelation, 4 x 128": CORRELATED,
    "DiVA, 4 x 128": DIVA,
    "its auxiliary heads at half weight": ("diva", f"{HEADS}-1-0.5-0.5-0.5"),
    "its weights of the paper, 0.75-1.25-1.25-1.25": ("diva", f"{HEADS}-0.75-1.25-1.25-1.25"),
    "its discriminative head, 128": ("diva", "discriminative"),
    "DiVA with plain moco, 4 x 128": MOCO,
    "margin alone, eight epochs": MARGIN_8,
    "MultiSimilarity, eight epochs": MULTISIMILARITY_8,
    "four heads by margin, eight epochs": ENSEMBLE_8,
    "DiVA, eight epochs": DIVA_8,
    "its auxiliary heads at half weight, eight epochs": (
        "diva_long", f"{HEADS}-1-0.5-0.5-0.5"),
    "its weights of the paper, eight epochs": ("diva_long", f"{HEADS}-0.75-1.25-1.25-1.25"),
    "its discriminative head, eight epochs": ("diva_long", "discriminative")}
PAIRS = ((DIVA, MARGIN), (ENSEMBLE, MARGIN), (DIVA, ENSEMBLE), (DIVA, CORRELATED), (MOCO, DIVA),
         *itertools.product((PROXY_ANCHOR, MULTISIMILARITY), (MARGIN, ENSEMBLE)),
         *((part, MARGIN) for part in BESIDE),
         (MARGIN_8, MARGIN), (MULTISIMILARITY_8, MULTISIMILARITY), (ENSEMBLE_8, ENSEMBLE),
         (DIVA_8, DIVA), (DIVA_8, MARGIN_8), (ENSEMBLE_8, MARGIN_8), (DIVA_8, ENSEMBLE_8),
         (MULTISIMILARITY_8, ENSEMBLE_8))
MEASURED = [("Test", metric) for metric in METRICS] + [("Shops", metric) for metric in SHOP_METRICS]
Row = tuple[str, ...]


def of_run(folder: Path, stage: str, shops: Path | None) -> Iterator[Row]:
    """The rows of the run in `folder`, as COLUMNS."""
    run, past = runs.read(folder, "folder"), history.read(folder, "folder")

    def row(epoch: int, of: str, evaltype: str, metric: str, value: float) -> Row:
        return (stage, run.options["group"], str(run.options["seed"]), str(epoch), of, evaltype,
                metric, f"{value:.6f}")

    tuning, last = run.chosen_on == "Val", run.epochs - 1
    for (split, evaltype, kind, metric), value in run.values.items():
        if (split, kind) == ("Test", "last") and not tuning:
            yield row(last, "Test", evaltype, metric, value)
    for curve in past.curves:
        chosen = tuning and curve["split"] == "Val" and curve["group"] != "epochs"
        if chosen or curve["title"] in ("Train: Loss", "Train: Gradient share"):
            of = "Val" if chosen else curve["group"]
            for epoch, values in zip(curve["epochs"], curve["rows"], strict=True):
                for name, value in zip(curve["names"], values, strict=True):
                    evaltype = curve["group"].removesuffix(f"_{name.partition('@')[0]}")
                    yield row(epoch, of, *((evaltype, name) if chosen else (name, "mean")), value)
    if tuning:
        return
    network, opt = architectures.load(folder / run_folder.LAST)
    opt.evaluate_only, opt.train_metrics, opt.kernels, opt.cache = True, False, 0, "none"
    heads = list(network.heads)
    _, (rows,) = embedded(network, opt, heads)
    points = dict(zip(heads, rows.chunk(len(heads), 1), strict=True))
    for one, other in itertools.combinations(heads, 2):
        yield row(last, "CKA", f"{one} {other}", "linear", cka(points[one], points[other]))
    if shops and opt.dataset == "grocery":
        opt.source_path, opt.dataset = str(shops), "grocery_shops"
        split, sides = embedded(network, opt, heads)
        for evaltype in opt.evaltypes:
            for metric, value in measured(SHOP_METRICS, split, [
                    derive(side, evaltype, heads, normalize=network.normalize) for side in sides]):
                yield row(last, "Shops", evaltype, metric, value)


def of_trunk(argv: Sequence[str]) -> Iterator[Row]:
    """The rows of the trunk with which runs of the options `argv` begin, at unit length."""
    opt = parameters.read_arguments(argv)
    network = architectures.select(opt.arch, opt)
    for of, dataset, metrics in (("Test", "grocery", METRICS),
                                 ("Shops", "grocery_shops", SHOP_METRICS)):
        opt.dataset = dataset
        split, sides = embedded(network, opt, None)
        for metric, value in measured(metrics, split, [unit(side) for side in sides]):
            yield "seeds", "untrained", "0", "0", of, "trunk", metric, f"{value:.6f}"


def embedded(network, opt, heads: list[str] | None) -> tuple[Split, list[torch.Tensor]]:
    """The test split, and the embeddings of its queries and, where there is one, of its gallery:
    heads side by side, or the trunk where heads is None."""
    split = Split.of(datasets.select(opt.dataset, opt), "Test", "testing", opt, "cpu")
    return split, [embed(network, loader, heads) for loader in split.loaders]


def measured(metrics: Sequence[str], split: Split, sides: list[torch.Tensor]):
    return score(metrics, split, sides, "cpu")[0].values.items()


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centred kernel alignment of x (N, D) and y (N, E):
    ||X'Y||^2 / (||X'X|| ||Y'Y||) of the centred columns."""
    x, y = (side.double() - side.double().mean(0) for side in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def stored() -> list[Row]:
    if not FILE.exists():
        return []
    with open(FILE, newline="") as file:
        return [tuple(row) for row in itertools.islice(csv.reader(file), 1, None)]


def add(new: list[Row]) -> None:
    assert new, "nothing was measured"
    with FileLock(FILE.with_suffix(".lock")):
        kept = [row for row in stored() if row[:3] != new[0][:3]]
        checkpoint.write_text(FILE, csv_text([COLUMNS, *kept, *new]))


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: for each stage and what was measured the mean and 95 % interval over seeds."""
    values: dict = defaultdict(lambda: defaultdict(dict))
    for stage, group, seed, epoch, of, evaltype, metric, value in rows:
        if of in ("Test", "Shops", "CKA"):
            values[stage, of][group, evaltype].setdefault(metric, {})[seed] = float(value)
        elif of == "Val":
            values[stage, of][f"{group}, epoch {epoch}", evaltype].setdefault(metric, {})[
                seed] = float(value)
    for (stage, of), entries in values.items():
        columns = list(dict.fromkeys(metric for entry in entries.values() for metric in entry))
        yield f"\n**{stage}: {of}**\n"
        yield "| setting | embedding | seeds | " + " | ".join(columns) + " |"
        yield "| --- | --- | ---: |" + " ---: |" * len(columns)
        for (group, evaltype), scores in entries.items():
            n = max(map(len, scores.values()))
            yield (f"| {group} | {evaltype} | {n} | " + " | ".join(
                shown(scores[metric].values()) if metric in scores else "-"
                for metric in columns) + " |")


def terms(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: each term's loss and its share in the gradient after each epoch, means over the
    seeds."""
    values: dict = defaultdict(lambda: defaultdict(list))
    for stage, group, _, epoch, of, term, _, value in rows:
        if of in ("Loss", "Gradient share"):
            values[stage, group, term][of, int(epoch)].append(float(value))
    yield "\n| stage | setting | term | loss | share, % |\n| --- | --- | --- | ---: | ---: |"
    for setting, scores in values.items():
        losses, shares = ([fmean(scores[key]) for key in sorted(scores) if key[0] == of]
                          for of in ("Loss", "Gradient share"))
        yield (f"| {' | '.join(setting)} | {', '.join(f'{loss:.3g}' for loss in losses)} | "
               f"{', '.join(f'{100 * share:.3g}' for share in shares)} |")


def shown(values) -> str:
    """Mean and half of the 95 % interval in per cent."""
    of = summary(list(values))
    return f"{100 * of.mean:.1f}" + ("" if of.half is None else f" ± {100 * of.half:.1f}")


def compared(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: the metrics of SETTINGS and the differences of PAIRS, each the mean and 95 %
    interval over seeds; differences are taken seed by seed."""
    scores: dict = defaultdict(dict)
    for _, group, seed, _, of, evaltype, metric, value in rows:
        scores[group, evaltype, of, metric][seed] = float(value)
    lines = {name: [scores[(*setting, *column)].values() for column in MEASURED]
             for name, setting in SETTINGS.items()}
    for one, other in PAIRS:
        sides = [(scores[(*one, *column)], scores[(*other, *column)]) for column in MEASURED]
        lines[f"{one[0]} - {other[0]}"] = [
            [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())] for a, b in sides]
    yield "\n| | " + " | ".join(map(" ".join, MEASURED)) + " |"
    yield "| --- |" + " ---: |" * len(MEASURED)
    for name, cells in lines.items():
        yield f"| {name} | " + " | ".join(shown(cell) if cell else "-" for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("folder", type=Path)
    adding.add_argument("--stage", required=True)
    adding.add_argument("--shops", type=Path)
    commands.add_parser("untrained")
    commands.add_parser("tables")
    args, options = parser.parse_known_args()
    if options and args.command != "untrained":
        parser.error(f"unrecognised arguments: {' '.join(options)}")
    setup.keep_freed_memory()
    if args.command == "add":
        add(list(of_run(args.folder, args.stage, args.shops)))
    elif args.command == "untrained":
        add(list(of_trunk(options)))
    else:
        rows = stored()
        print("\n".join([*tables(rows), *terms(rows), *compared(rows)]))


if __name__ == "__main__":
    main()
