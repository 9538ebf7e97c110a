"""After each epoch: embed the splits, compute the metrics, remember the best epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import architectures
import metrics
from datasets import held_out_by, images
from datasets.loader import Loader
from evaluation import per_class
from evaluation.embedding import derive
from evaluation.pictures import N_NEIGHBOURS, Pictures
from utilities import faiss_gpu
from utilities.distributed import ALONE, Alone
from utilities.embedding import embed
from utilities.errors import refuse

Neighbours = tuple[Tensor, Tensor]  # distances and rows (N, k) of each query's nearest images


@dataclass
class Split:
    """A split to evaluate. gallery: the images to search in; None: the queries themselves."""

    name: str
    queries: Loader
    gallery: Loader | None = None

    @classmethod
    def of(cls, data: dict, name: str, key: str, opt, device, processes: Alone = ALONE) -> Split:
        """The split `key` of what `datasets.select` returns."""
        keys = [f"{key}_query", f"{key}_gallery"] if f"{key}_query" in data else [key]
        return cls(name, *(Loader(data[part], opt, device, None, processes) for part in keys))

    @property
    def loaders(self) -> list[Loader]:
        return [self.queries] if self.gallery is None else [self.queries, self.gallery]

    @property
    def labels(self) -> list[np.ndarray]:
        return [loader.dataset.labels for loader in self.loaders]

    @cached_property
    def own(self) -> np.ndarray:
        """(N,) int64: the row of each query's own file among the images to search in, or -1."""
        rows = {path: row for row, path in enumerate(self.loaders[-1].dataset.paths)}
        return np.array([rows.get(path, -1) for path in self.queries.dataset.paths])

    @cached_property
    def categories(self) -> dict[str, Tensor]:
        """{category: (N,) bool, which queries are of it}, by name, where a table has categories."""
        of_queries = [images.category_of(path) for path in self.queries.dataset.paths]
        return {name: torch.tensor([name == category for category in of_queries])
                for name in sorted(set(filter(None, of_queries)))}

    def title(self, category: str) -> str:
        """The title of the metrics of the queries of `category`."""
        return f"{self.name}, {category}"

    @property
    def titles(self) -> list[str]:
        """The split's name, and the titles of its categories."""
        return [self.name, *map(self.title, self.categories)]

    def union(self, points: Sequence[Tensor]) -> tuple[list[str], np.ndarray, Tensor]:
        """Paths, labels (n,) and embeddings (n, D) of all images, each once: the queries, then what
        only the gallery has. points: the embeddings of the loaders."""
        queries = self.queries.dataset
        if self.gallery is None:
            return queries.paths, queries.labels, points[0]
        gallery = self.gallery.dataset
        rest = np.setdiff1d(np.arange(len(gallery.labels)), self.own)
        return ([*queries.paths, *(gallery.paths[row] for row in rest)],
                np.concatenate([queries.labels, gallery.labels[rest]]),
                torch.cat([points[0], points[1][torch.from_numpy(rest)]]))

    @property
    def counts(self) -> dict[str, int]:
        """How many images, queries and classes there are, and queries with nothing to find."""
        paths = {path for loader in self.loaders for path in loader.dataset.paths}
        return {"images": len(paths), "queries": len(self.own),
                "classes": len(np.unique(np.concatenate(self.labels))),
                "queries_with_nothing_to_find":
                    metrics.n_without_positive(*self.labels, own=self.own)}


class Evaluator:
    """Evaluates `splits`; the best epochs are chosen on `Val` if it is among them, else on `Test`.

    features: the network's heads; normalize: whether the architecture normalises them; names: the
    metrics to compute; storage_metrics: those that choose epochs (always computed);
    cluster_every: epochs between metrics that need k-means, which are always computed in the last
    epoch (in the final table a best epoch without them shows a dash); evaluate_every: epochs
    between evaluations, always with the first and the last; pictures: of the last split, at the
    best epoch of the first evaltype; device: where embeddings lie and metrics are computed;
    list_classes: keep in `classes` what `per_class` lists of each class; processes: each embeds a
    part of each split, the first measures.
    """

    def __init__(self, splits: Sequence[Split], *, features: Sequence[str], normalize: bool,
                 evaltypes: Sequence[str], names: Sequence[str], storage_metrics: Sequence[str],
                 cluster_every: int, n_epochs: int, pictures: Pictures | None = None,
                 device: torch.device | str = "cpu", list_classes: bool = False,
                 processes: Alone = ALONE, evaluate_every: int = 1):
        self.splits, self.processes = list(splits), processes
        self.features, self.normalize, self.evaltypes = features, normalize, list(evaltypes)
        self.names = list(dict.fromkeys([*names, *storage_metrics]))
        self.storage_metrics = list(dict.fromkeys(storage_metrics))
        self.cluster_every, self.n_epochs = cluster_every, n_epochs
        self.evaluate_every = evaluate_every
        self.pictures, self.device = pictures or Pictures(), device
        self.chosen_on = "Val" if any(split.name == "Val" for split in splits) else splits[-1].name
        self.classes: list[per_class.Row] | None = [] if list_classes else None
        # {evaltype: {split, or `title` of a category: {metric: value}}} of the last evaluation
        self.measured: dict[str, dict[str, dict[str, Any]]] = {}
        # {(evaltype, storage metric): {"epoch", "value", "metrics": {split: {metric: value}}}}
        self.best: dict[tuple[str, str], dict] = {}
        self.last: dict = {}  # {"epoch", "metrics": {evaltype: {split: {metric: value}}}}

    @classmethod
    def from_opt(cls, opt, data: dict, device: torch.device, processes: Alone = ALONE) -> Evaluator:
        """data: what `datasets.select` returns."""
        wanted = {"Train": "evaluation"} if opt.train_metrics else {}
        wanted |= {"Val": "validation", "Test": "testing", "All": "all"}
        splits = [Split.of(data, name, key, opt, device, processes)
                  for name, key in wanted.items() if key in data]
        device_of_metrics = torch.device("cpu" if opt.evaluate_on_cpu else device)
        measured = [*opt.evaluation_metrics, *(per_class.METRICS if opt.per_class else ())]
        names = [*measured, *opt.storage_metrics]
        if (device_of_metrics.type == "cuda" and any(map(metrics.needs_clusters, names))
                and not faiss_gpu.usable(device_of_metrics)):
            print("faiss has no GPU here: k-means of the evaluation runs on the CPU.", flush=True)
        evaluator = cls(splits, features=opt.diva_features, names=measured,
                        normalize=architectures.parse(opt.arch).normalize,
                        evaltypes=opt.evaltypes, storage_metrics=opt.storage_metrics,
                        cluster_every=opt.cluster_every, n_epochs=opt.n_epochs,
                        pictures=Pictures(opt.plots, opt.map), device=device_of_metrics,
                        list_classes=opt.per_class is not None, processes=processes,
                        evaluate_every=opt.evaluate_every)
        if not opt.evaluate_only:
            evaluator.check_choice(opt.dataset, held_out_by(opt))
        evaluator.check_images()
        return evaluator

    def check_choice(self, dataset: str, held_out: tuple[str, float]) -> None:
        """UserError where the split that chooses epochs cannot tell them apart, since none of its
        queries has anything to find or all its images are of one class. held_out: as
        `held_out_by` returns it."""
        split = next(split for split in self.splits if split.name == self.chosen_on)
        flag, given, which = "--dataset", repr(dataset), "test"
        accepted = "two classes or more, of which some have two images or more"
        if split.name == "Val":
            which = "validation"
            if held_out[1] == 1:    # it is a folder of the dataset
                accepted = f"a folder 'val' of {accepted}"
            else:
                flag, given = held_out
                accepted = {"--train_val_split": "1 for no validation split, or another share",
                            "--val_folds": "fewer folds, or another --val_fold"}[flag]
        counts = split.counts
        if counts["queries_with_nothing_to_find"] == counts["queries"]:
            refuse(flag, f"{given} given, but none of the {counts['queries']:,} queries of the "
                   f"{which} split has another image of its class to find", accepted)
        if len(np.unique(split.labels[-1])) == 1:
            refuse(flag, f"{given} given, but the {which} split has one class, in which every "
                   "neighbour is right", accepted)

    def check_images(self) -> None:
        """Prints how many queries have nothing to find. UserError for a metric that needs more
        images than a split has."""
        for split in self.splits:
            n_images, n, _, lone = split.counts.values()
            if lone:
                print(f"{split.name}: {lone:,} of {n:,} queries have no other image of their class "
                      "to find: misses in recall and mAP, left out of mAP_r and r_precision.",
                      flush=True)
            for name in self.names:
                if metrics.n_singular_values(name) > n_images:
                    refuse("--evaluation_metrics", f"{name!r} leaves no singular value of the "
                           f"{n_images:,} images of {split.name}", f"up to rho_spectrum@{n_images}")

    @property
    def criterion(self) -> str:
        """How checkpoints are chosen, as printed at the start of the run."""
        return (f"Checkpoints are chosen by the best {' and '.join(self.storage_metrics)} on "
                + ("the validation split." if self.chosen_on == "Val" else
                   "the test split, as papers of the field do (--train_val_split to avoid it)."))

    def evaluate(self, network: nn.Module, epoch: int, logger=None) -> list[tuple[str, str]]:
        """Computes every metric for every evaltype on every split, where `evaluates` says so, and
        logs it where there is a logger; `report` shows the numbers.

        Returns each (evaltype, storage metric) for which this epoch is the best so far.
        """
        if not self.evaluates(epoch):
            return []
        names = self.due(epoch)
        results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in self.evaltypes}
        tables: dict[str, Neighbours] = {}
        for split in self.splits:
            sides = [embed(network, loader, self.features, device=self.device,
                           processes=self.processes) for loader in split.loaders]
            self.processes.first(partial(self.add, results, tables, names, split, sides, logger))
        if not self.processes.is_first:
            return []
        if logger is not None and self.evaluate_every > 1:
            for split in self.splits:
                logger.log(split.name, "epochs", {"epochs": epoch})
        self.measured, better = results, self.choose(epoch, results)
        improved = [metric for evaltype, metric in better if evaltype == self.evaltypes[0]]
        if logger is not None and self.pictures.wanted and improved:
            last = self.splits[-1]      # whose embeddings `sides` are
            self.pictures.take(last, self.heading(epoch, improved[0]),
                               self.derive(sides, self.evaltypes[0]), tables[last.name])
            if self.pictures.plots == "epoch":
                self.pictures.draw(last, logger)
        return better

    def add(self, results: dict, tables: dict, names: Sequence[str], split: Split,
            sides: Sequence[Tensor], logger) -> None:
        """Adds the metrics of a split, whose loaders' images have the embeddings `sides`, to
        `results`, and logs them; the neighbours by the first evaltype to `tables`, for pictures."""
        for evaltype in self.evaltypes:
            measured, neighbours = score(names, split, self.derive(sides, evaltype), self.device)
            results[evaltype][split.name] = measured.values
            for category, rows in split.categories.items():
                results[evaltype][split.title(category)] = measured.of(rows)
            if self.classes is not None:
                self.classes += per_class.rows(evaltype, split, measured.scores, neighbours[1])
            if logger is not None:
                log_metrics(logger, split.name, evaltype, measured.values)
            if evaltype == self.evaltypes[0] and self.pictures.wanted:
                tables[split.name] = neighbours

    def evaluates(self, epoch: int) -> bool:
        """Whether `epoch`, counted from 0, is evaluated."""
        return epoch % self.evaluate_every == 0 or epoch == self.n_epochs - 1

    def lacks(self, epoch: int) -> bool:
        """Whether `epoch` should be evaluated and was not: a resume with another `--n_epochs` may
        make it the last one."""
        return epoch >= 0 and self.evaluates(epoch) and self.last.get("epoch") != epoch

    def due(self, epoch: int) -> list[str]:
        """The metrics to compute in `epoch`, which is evaluated. Those that need k-means are
        computed at the first evaluation in each block of `cluster_every` epochs, and in the last
        epoch."""
        before = epoch - self.evaluate_every
        if (epoch // self.cluster_every > before // self.cluster_every
                or epoch == self.n_epochs - 1):
            return self.names
        return [name for name in self.names if not metrics.needs_clusters(name)]

    def derive(self, sides: Sequence[Tensor], evaltype: str) -> list[Tensor]:
        """The embeddings of one evaltype, of those of all heads side by side."""
        return [derive(side, evaltype, self.features, normalize=self.normalize) for side in sides]

    def choose(self, epoch: int, results: dict) -> list[tuple[str, str]]:
        """Records `results` {evaltype: {split: {metric: value}}}. Returns where they are strictly
        better than before; NaN never is."""
        plain = {evaltype: {split: {name: float(value) for name, value in values.items()
                                    if getattr(value, "ndim", 0) == 0}
                            for split, values in of_splits.items()}
                 for evaltype, of_splits in results.items()}
        self.last = {"epoch": epoch, "metrics": plain}
        better = []
        for evaltype, of_splits in plain.items():
            for metric in self.storage_metrics:
                value = of_splits[self.chosen_on].get(metric, math.nan)
                before = self.best.get((evaltype, metric), {"value": -math.inf})["value"]
                if value > before:
                    self.best[evaltype, metric] = {"epoch": epoch, "value": value,
                                                   "metrics": of_splits}
                    better.append((evaltype, metric))
        return better

    def heading(self, epoch: int, metric: str) -> tuple[str, str]:
        """What stands above the pictures of `epoch`, the best by `metric`."""
        split, evaltype = self.splits[-1], self.evaltypes[0]
        value = self.last["metrics"][evaltype][split.name][metric]
        return (f"{split.queries.dataset.name}, {split.name}, epoch {epoch}, {metric} {value:.4f}",
                evaltype)

    def report(self, when: str = "", *, categories: bool = False) -> str:
        """A table for each split, and for each of its `categories`, of what was evaluated last;
        `when` follows the title."""
        results = self.last.get("metrics")
        if results is None:     # not the process that measures
            return ""
        return "\n".join(table(title + when, [(evaltype, results[evaltype][title])
                                              for evaltype in self.evaltypes])
                         for split in self.splits
                         for title in (split.titles if categories else [split.name]))

    def summary(self) -> str:
        """The final table: per evaltype the best epoch by each storage metric, and the last epoch,
        each with all its metrics (papers report the maximum over epochs on test). Categories have
        tables like it."""
        texts = []
        for title in [title for split in self.splits for title in split.titles]:
            rows: list[tuple[str, dict]] = []
            for evaltype, of_splits in self.last.get("metrics", {}).items():
                rows.append((evaltype, {}))
                for metric in self.storage_metrics:
                    if entry := self.best.get((evaltype, metric)):
                        rows.append((f"  best {metric}: epoch {entry['epoch']}",
                                     entry["metrics"][title]))
                rows.append((f"  last: epoch {self.last['epoch']}", of_splits[title]))
            texts.append(table(title, rows))
        return "\n\n".join(texts)

    def finish(self, logger) -> None:
        """Draws the pictures that are due at the end."""
        if self.best and self.processes.is_first:
            self.pictures.finish(self.splits[-1], logger)

    def close(self) -> None:
        """Ends the loaders."""
        for split in self.splits:
            for loader in split.loaders:
                loader.close()

    def state_dict(self) -> dict[str, Any]:
        return {"best": [[evaltype, metric, entry] for (evaltype, metric), entry in
                         self.best.items()], "last": self.last, "pictures": self.pictures.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = {(evaltype, metric): entry for evaltype, metric, entry in state["best"]}
        self.last = state["last"]
        self.pictures.found = state.get("pictures", {})     # which earlier versions lack


def score(names: Sequence[str], split: Split, points: Sequence[Tensor],
          device: torch.device | str) -> tuple[metrics.Measured, Neighbours]:
    """The metrics of the embeddings `points` of the split's loaders, and each query's nearest
    neighbours, at least N_NEIGHBOURS."""
    labels = split.labels
    features, gallery = points if split.gallery else (points[0], None)
    k = max(N_NEIGHBOURS, metrics.depth(names, *labels))
    neighbours = metrics.knn(features, gallery, k, own=split.own, device=device)
    measured = metrics.measure(names, features, labels[0], neighbours=neighbours,
                               gallery=(gallery, labels[1]) if split.gallery else None,
                               own=split.own, device=device)
    return measured, neighbours


def log_metrics(logger, split: str, evaltype: str, values: dict[str, Any]) -> None:
    """Under the groups `<evaltype>_<metric family>`."""
    for name, value in values.items():
        logger.log(split, f"{evaltype}_{metrics.parse(name)[0]}", {name: value},
                   best="max" if metrics.is_score(name) else "none")


def table(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """(name, {metric: value}) as text; arrays have no cell, a missing value a dash."""
    columns = list(dict.fromkeys(metric for _, values in rows for metric, value in values.items()
                                 if getattr(value, "ndim", 0) == 0))
    width = max(len(text) for text in [title, *(name for name, _ in rows)])
    lines = [title.ljust(width) + "".join(f"  {metric:>7}" for metric in columns)]
    for name, values in rows:
        cells = [f"{float(values[metric]):.4f}" if metric in values else "-" for metric in columns]
        lines.append((name.ljust(width) + "".join(
            f"  {cell:>{max(7, len(metric))}}"
            for cell, metric in zip(cells, columns, strict=True) if values)).rstrip())
    return "\n".join(lines)
