"""The study of `SampleRuns/Study.sh`: its numbers, a row each, and its tables.

    python tests/benchmarks/study.py add <run folder> --stage <stage> [--shops <folder of datasets>]
    python tests/benchmarks/study.py tables

`add` reads a finished run into study.csv beside this file. A run with validation classes gives
their metrics after every evaluated epoch and none of the test split; another run the metrics of the
test split after its last epoch, those of `grocery_shops` (queries against the gallery, images of
another shop) and the linear CKA of each pair of heads on the test split (Kornblith et al. 2019,
arXiv 1905.00414). Reading a run again replaces its rows.
"""

import argparse
import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import architectures
import datasets
from evaluation.embedding import derive
from evaluation.evaluator import Split, score
from evaluation.summarize import summary
from utilities import checkpoint, run_folder
from utilities.embedding import embed
from utilities.logger import csv_text

FILE = Path(__file__).with_name("study.csv")
COLUMNS = ("stage", "group", "seed", "epoch", "of", "evaltype", "metric", "value")
METRICS = ("mAP_r", "e_recall@1", "nmi")
Row = tuple[str, ...]


def of_run(folder: Path, stage: str, shops: Path | None) -> Iterator[Row]:
    """The rows of the run in `folder`, as COLUMNS."""
    state = checkpoint.load(folder / run_folder.LAST, flag="folder")
    options, n_epochs = state["options"], state["epoch"]

    def row(epoch: int, of: str, evaltype: str, metric: str, value: float) -> Row:
        return (stage, options["group"], str(options["seed"]), str(epoch), of, evaltype, metric,
                f"{value:.6f}")

    tuning = any(series["split"] == "Val" for series in state["logger"]["series"])
    for series in state["logger"]["series"]:
        if series["split"] != ("Val" if tuning else "Test"):
            continue
        for epoch, values in zip(series["epochs"].tolist(), series["rows"].tolist(), strict=True):
            for metric, value in zip(series["segments"], values, strict=True):
                if tuning or epoch == n_epochs - 1:
                    evaltype = series["group"].rsplit(f"_{metric.split('@')[0]}", 1)[0]
                    yield row(epoch, series["split"], evaltype, metric, value)
    for series in state["logger"]["series"]:
        if series["split"] == "Train" and series["group"] in ("Loss", "Gradient share"):
            for epoch, values in zip(series["epochs"].tolist(), series["rows"].tolist(),
                                     strict=True):
                for feature, value in zip(series["segments"], values, strict=True):
                    yield row(epoch, series["group"], feature, "mean", value)
    if tuning:
        return
    network, opt = architectures.load(folder / run_folder.LAST)
    opt.evaluate_only, opt.train_metrics, opt.kernels, opt.cache = True, False, 0, "none"
    heads = list(network.heads)
    test = Split.of(datasets.select(opt.dataset, opt), "Test", "testing", opt, "cpu")
    rows = embed(network, test.queries, heads)
    points = dict(zip(heads, rows.chunk(len(heads), 1), strict=True))
    for one, other in itertools.combinations(heads, 2):
        yield row(n_epochs - 1, "CKA", f"{one} {other}", "linear",
                  cka(points[one], points[other]))
    if shops:
        opt.source_path, opt.dataset = str(shops), "grocery_shops"
        split = Split.of(datasets.select(opt.dataset, opt), "Test", "testing", opt, "cpu")
        sides = [embed(network, loader, heads) for loader in split.loaders]
        for evaltype in opt.evaltypes:
            measured, _ = score(("mAP_r", "e_recall@1"), split, [
                derive(side, evaltype, heads, normalize=network.normalize) for side in sides],
                "cpu")
            for metric, value in measured.values.items():
                yield row(n_epochs - 1, "Shops", evaltype, metric, value)


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


def add(folder: Path, stage: str, shops: Path | None) -> None:
    new = list(of_run(folder, stage, shops))
    assert new, f"{folder} holds no metrics"
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


def shown(values) -> str:
    """Mean and half of the 95 % interval in per cent."""
    of = summary(list(values))
    return f"{100 * of.mean:.1f}" + ("" if of.half is None else f" ± {100 * of.half:.1f}")


def differences(rows: Sequence[Row], stage: str, pairs: Sequence[tuple[tuple[str, str],
                                                                      tuple[str, str]]]
                ) -> Iterator[str]:
    """Markdown: the mean over common seeds of (group, evaltype) minus another's."""
    scores: dict = defaultdict(dict)
    for name, group, seed, _, of, evaltype, metric, value in rows:
        if name == stage and of in ("Test", "Shops"):
            scores[group, evaltype, of, metric][seed] = float(value)
    yield "\n| difference | seeds | Test mAP_r | Test e_recall@1 | Test nmi | Shops mAP_r | " \
          "Shops e_recall@1 |\n| --- | ---: |" + " ---: |" * 5
    for one, other in pairs:
        cells, n = [], 0
        for of, metric in itertools.product(("Test", "Shops"), METRICS):
            a, b = scores[(*one, of, metric)], scores[(*other, of, metric)]
            if of == "Shops" and metric == "nmi":
                continue
            common = sorted(a.keys() & b.keys())
            n = max(n, len(common))
            cells.append(shown([a[s] - b[s] for s in common]) if common else "-")
        yield f"| {' '.join(one)} - {' '.join(other)} | {n} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("folder", type=Path)
    adding.add_argument("--stage", required=True)
    adding.add_argument("--shops", type=Path)
    commands.add_parser("tables")
    args = parser.parse_args()
    if args.command == "add":
        add(args.folder, args.stage, args.shops)
    else:
        print("\n".join(tables(stored())))


if __name__ == "__main__":
    main()
