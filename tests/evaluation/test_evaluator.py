"""Evaluation after an epoch: metrics, logs, best epochs, the final table."""

import math
import re
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datasets import Batch
from evaluation.evaluator import Evaluator, Split
from evaluation.pictures import Pictures
from utilities import checkpoint
from utilities.logger import Logger

FEATURES = ("discriminative", "shared")
PICTURES = {"sample_recoveries.png", "worst_recoveries.png", "distances.svg", "distances.png",
            "map.png"}
BOTH = "Combined_discriminative_shared-1-1"


class Dataset:
    def __init__(self, folder, n_classes=4, n_images=5, dim=3):
        folder.mkdir(exist_ok=True)
        self.name = "tiny"
        self.labels = np.repeat(np.arange(n_classes), n_images)
        self.class_names = [f"class {c}" for c in range(n_classes)]
        self.paths = [str(folder / f"{i}.png") for i in range(len(self.labels))]
        for path in self.paths:
            Image.new("RGB", (8, 8)).save(path)
        # Images of a class are near one another: a perfect retrieval for the identity.
        centres = 10 * torch.eye(n_classes, dim)
        self.images = centres[self.labels] + 0.1 * torch.randn(len(self.labels), dim)

    def __len__(self):
        return len(self.labels)


class Loader:
    def __init__(self, dataset):
        self.dataset, self.passes, self.closed = dataset, 0, False

    def __len__(self):
        return 2

    def epoch(self, _epoch):
        self.passes += 1
        for rows in torch.arange(len(self.dataset)).chunk(2):
            yield Batch(torch.as_tensor(self.dataset.labels)[rows], self.dataset.images[rows], rows)

    def close(self):
        self.closed = True


class Network(nn.Module):
    """The image itself as one head, noise as the other."""

    def forward(self, images):
        return {"discriminative": images, "shared": torch.randn_like(images)}, images


@pytest.fixture
def build(tmp_path):
    def make(*splits, plots="none", **given):
        loader = Loader(Dataset(tmp_path))
        splits = splits or [Split("Test", loader)]
        return Evaluator(splits, **{
            "features": FEATURES, "normalize": False, "evaltypes": ["discriminative", BOTH],
            "names": ["e_recall@1", "e_recall@2"], "storage_metrics": ["e_recall@1"],
            "cluster_every": 1, "n_epochs": 10,
            "pictures": Pictures(plots)} | given)

    return make


@pytest.fixture
def logger(tmp_path):
    return Logger(tmp_path / "run", plots="none")


def test_every_metric_is_logged_and_reported_for_every_evaltype(build, logger):
    evaluator = build(names=["e_recall@1", "e_recall@2", "nmi"])
    evaluator.evaluate(Network(), 0, logger)
    assert set(logger.current) == {("Test", f"{evaltype}_{family}")
                                   for evaltype in ("discriminative", BOTH)
                                   for family in ("e_recall", "nmi")}
    assert logger.current["Test", "discriminative_e_recall"] == {"e_recall@1": 1, "e_recall@2": 1}
    printed = evaluator.report(", epoch 0")
    assert re.search(r"^discriminative +1\.0000 +1\.0000 +1\.0000$", printed, re.MULTILINE)
    assert re.search(r"^Test, epoch 0 +e_recall@1  e_recall@2 +nmi$", printed, re.MULTILINE)
    assert BOTH in printed


def test_one_pass_embeds_a_split_for_all_evaltypes(build, logger):
    evaluator = build(evaltypes=["discriminative", "shared", BOTH])
    evaluator.evaluate(Network(), 0, logger)
    assert evaluator.splits[0].queries.passes == 1


def test_storage_metrics_are_computed_even_if_not_asked_for(build, logger):
    evaluator = build(names=["e_recall@2"], storage_metrics=["mAP_r"])
    better = evaluator.evaluate(Network(), 0, logger)
    assert better == [("discriminative", "mAP_r"), (BOTH, "mAP_r")]
    assert "mAP_r" in logger.current["Test", "discriminative_mAP_r"]


def results(*values, split="Test", metric="e_recall@1"):
    return {name: {split: {metric: value}} for name, value in
            zip(["discriminative", BOTH], values, strict=True)}


def test_only_strict_improvement_is_better(build):
    evaluator = build()
    assert evaluator.choose(0, results(0.0, 0.5)) == [("discriminative", "e_recall@1"),
                                                      (BOTH, "e_recall@1")]
    assert evaluator.choose(1, results(0.0, 0.5)) == []
    assert evaluator.choose(2, results(0.1, 0.4)) == [("discriminative", "e_recall@1")]
    assert evaluator.best["discriminative", "e_recall@1"]["epoch"] == 2
    assert evaluator.best[BOTH, "e_recall@1"]["epoch"] == 0


def test_nan_is_never_better(build):
    evaluator = build()
    assert evaluator.choose(0, results(math.nan, math.nan)) == []
    assert len(evaluator.choose(1, results(0.1, 0.1))) == 2
    assert evaluator.choose(2, results(math.nan, math.nan)) == []


def test_each_storage_metric_chooses_for_itself(build):
    evaluator = build(storage_metrics=["e_recall@1", "e_recall@2"], evaltypes=["discriminative"])
    first = {"discriminative": {"Test": {"e_recall@1": 0.2, "e_recall@2": 0.9}}}
    second = {"discriminative": {"Test": {"e_recall@1": 0.3, "e_recall@2": 0.8}}}
    assert len(evaluator.choose(0, first)) == 2
    assert evaluator.choose(1, second) == [("discriminative", "e_recall@1")]


def test_a_file_that_is_query_and_gallery_is_left_out_of_its_own_neighbours(build, tmp_path):
    queries, gallery = Loader(Dataset(tmp_path)), Loader(Dataset(tmp_path / "gallery"))
    # The gallery: the queries 0 and 7, which have nothing else to find, among other classes.
    queries.dataset.labels = np.full(20, -1)
    queries.dataset.labels[[0, 7]] = 0, 1
    gallery.dataset.labels += 100
    for own, query in ((3, 0), (5, 7)):
        gallery.dataset.paths[own] = queries.dataset.paths[query]
        gallery.dataset.labels[own] = queries.dataset.labels[query]
        gallery.dataset.images[own] = queries.dataset.images[query]
    split = Split("Test", queries, gallery)
    assert split.own.tolist() == [3, *[-1] * 6, 5, *[-1] * 12]
    evaluator = build(split, evaltypes=["discriminative"], names=["c_recall@1", "mAP"])
    evaluator.evaluate(Network(), 0)
    assert set(evaluator.last["metrics"]["discriminative"]["Test"].values()) == {0.0}


def test_a_validation_split_chooses_if_there_is_one(build, tmp_path):
    loader = Loader(Dataset(tmp_path))
    evaluator = build(Split("Val", loader), Split("Test", loader), evaltypes=["discriminative"])
    assert "validation" in evaluator.criterion and "test split" in build().criterion

    def of(val, test):
        return {"discriminative": {"Val": {"e_recall@1": val}, "Test": {"e_recall@1": test}}}

    evaluator.choose(0, of(0.5, 0.1))
    assert evaluator.choose(1, of(0.4, 0.9)) == []
    entry = evaluator.best["discriminative", "e_recall@1"]
    assert entry["value"] == 0.5 and entry["metrics"]["Test"] == {"e_recall@1": 0.1}


def test_cluster_every_skips_k_means_in_between(build, logger, monkeypatch):
    evaluator = build(names=["e_recall@1", "nmi"], cluster_every=3, n_epochs=6)
    with_clusters = []
    for epoch in range(6):
        evaluator.evaluate(Network(), epoch, logger)
        if ("Test", "discriminative_nmi") in logger.current:
            with_clusters.append(epoch)
        logger.end_epoch(epoch)
    assert with_clusters == [0, 3, 5]  # the last epoch, too
    csv = (logger.folder / "CSV_Logs" / "Data_Test_discriminative_nmi.csv").read_text()
    assert len(csv.splitlines()) == 1 + 3


def test_a_best_epoch_between_clusterings_has_a_dash_for_them(build):
    evaluator = build(evaltypes=["discriminative"])
    evaluator.choose(0, {"discriminative": {"Test": {"e_recall@1": 0.1, "nmi": 0.5}}})
    evaluator.choose(1, {"discriminative": {"Test": {"e_recall@1": 0.2}}})
    evaluator.choose(2, {"discriminative": {"Test": {"e_recall@1": 0.1, "nmi": 0.6}}})
    assert re.search(r"best e_recall@1: epoch 1 +0\.2000 +-$", evaluator.summary(), re.MULTILINE)


def test_a_storage_metric_with_clusters_waits_for_its_epochs(build, logger):
    evaluator = build(storage_metrics=["nmi"], cluster_every=2, evaltypes=["discriminative"])
    assert evaluator.evaluate(Network(), 0, logger) == [("discriminative", "nmi")]
    assert evaluator.evaluate(Network(), 1, logger) == []


def test_an_array_is_logged_but_not_in_the_tables(build, logger):
    evaluator = build(names=["e_recall@1", "rho_spectrum@0"], evaltypes=["discriminative"])
    evaluator.evaluate(Network(), 0, logger)
    value = logger.current["Test", "discriminative_rho_spectrum"]["rho_spectrum@0"]
    assert np.ndim(value) == 1
    assert "rho_spectrum" not in evaluator.report() + evaluator.summary()
    assert "rho_spectrum@0" not in evaluator.last["metrics"]["discriminative"]["Test"]


def test_queries_search_in_their_gallery(build, tmp_path, logger):
    dataset = Dataset(tmp_path)
    queries, gallery = Loader(dataset), Loader(dataset)
    gallery.dataset = Dataset(tmp_path)
    evaluator = build(Split("Test", queries, gallery), evaltypes=["discriminative"], plots="epoch")
    evaluator.evaluate(Network(), 0, logger)
    assert queries.passes == gallery.passes == 1
    assert evaluator.last["metrics"]["discriminative"]["Test"]["e_recall@1"] == 1
    assert (logger.folder / "sample_recoveries.png").exists()


@pytest.mark.parametrize(("plots", "drawn"), [("none", (False, False)), ("end", (False, True)),
                                              ("epoch", (True, True))])
def test_pictures_of_the_best_epoch_are_drawn_when_asked(build, logger, plots, drawn):
    evaluator = build(plots=plots)

    def all_there():
        there = {name for name in PICTURES if (logger.folder / name).exists()}
        assert there in (set(), PICTURES)
        return bool(there)

    evaluator.evaluate(Network(), 0, logger)
    during = all_there()
    evaluator.finish(logger)
    assert (during, all_there()) == drawn
    assert bool(evaluator.state_dict()["pictures"]) == (plots != "none")


def test_pictures_have_stable_names_on_wandb(build, logger, monkeypatch):
    shown = {}
    monkeypatch.setattr(logger, "picture", lambda name, path: shown.update({name: path.name}))
    build(plots="epoch").evaluate(Network(), 0, logger)
    assert shown == {"Sample retrievals": "sample_recoveries.png", "Map": "map.png",
                     "Worst retrievals": "worst_recoveries.png", "Distances": "distances.png"}


def test_the_title_says_what_is_drawn(build, logger):
    evaluator = build(plots="end", storage_metrics=["e_recall@2"])
    evaluator.evaluate(Network(), 3, logger)
    assert evaluator.pictures.found["title"] == [
        "tiny, Test, epoch 3, e_recall@2 1.0000", "discriminative"]


def test_a_worse_epoch_leaves_the_pictures_as_they_are(build, logger):
    evaluator = build(plots="end", evaltypes=["discriminative"])
    evaluator.evaluate(Network(), 0, logger)
    found, labels = evaluator.pictures.found, evaluator.splits[0].queries.dataset.labels
    assert all(labels[query] == labels[rows[0]] for query, rows, _ in found["samples"])

    class Worse(Network):
        def forward(self, images):
            return dict.fromkeys(FEATURES, torch.randn_like(images)), images

    evaluator.evaluate(Worse(), 1, logger)
    assert evaluator.pictures.found is found and evaluator.last["epoch"] == 1


def test_without_a_logger_nothing_is_written(build, tmp_path):
    evaluator = build(plots="epoch")
    files = set(tmp_path.rglob("*"))
    evaluator.evaluate(Network(), 0)
    assert set(tmp_path.rglob("*")) == files and "1.0000" in evaluator.report()


def test_a_resumed_evaluator_goes_on_where_it_was(build, logger, tmp_path):
    evaluator = build(plots="end")
    evaluator.evaluate(Network(), 0, logger)
    checkpoint.save(tmp_path / "state", evaluator.state_dict())
    resumed = build(plots="end")
    resumed.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert (resumed.best, resumed.last) == (evaluator.best, evaluator.last)
    drawn = {}
    for which in (evaluator, resumed):
        which.finish(logger)
        drawn[which] = [(logger.folder / name).read_bytes() for name in sorted(PICTURES)]
    assert drawn[evaluator] == drawn[resumed]
    assert resumed.summary() == evaluator.summary()
    assert resumed.choose(1, results(0.0, 0.0)) == []


def test_the_final_table_shows_the_best_and_the_last_epoch(build):
    evaluator = build()
    evaluator.choose(0, results(0.1, 0.2))
    evaluator.choose(1, results(0.7, 0.1))
    evaluator.choose(2, results(0.3, 0.05))
    lines = [" ".join(line.split()) for line in evaluator.summary().splitlines()]
    assert lines == ["Test e_recall@1",
                     "discriminative", "best e_recall@1: epoch 1 0.7000", "last: epoch 2 0.3000",
                     BOTH, "best e_recall@1: epoch 0 0.2000", "last: epoch 2 0.0500"]


def test_closing_ends_the_loaders(build):
    evaluator = build()
    evaluator.close()
    assert evaluator.splits[0].queries.closed


@pytest.fixture
def from_opt(make_opt, monkeypatch):
    """from_opt(keys, device, *argv): the evaluator of datasets of two images with these keys."""
    monkeypatch.setattr("evaluation.evaluator.Loader",
                        lambda dataset, *_: Namespace(dataset=dataset))
    data = {key: Namespace(key=key, paths=[f"{key}_{i}" for i in range(4)],
                          labels=np.array([0, 0, 1, 1]))
            for key in ("evaluation", "validation", "testing", "testing_query",
                        "testing_gallery")}
    return lambda keys, device, *argv: Evaluator.from_opt(
        make_opt(*argv), {key: data[key] for key in keys}, device)


@pytest.mark.parametrize(("keys", "train_metrics", "names"), [
    (("testing", "evaluation"), False, ["Test"]),
    (("testing", "evaluation"), True, ["Train", "Test"]),
    (("testing", "evaluation", "validation"), False, ["Val", "Test"]),
    (("testing", "testing_query", "testing_gallery"), False, ["Test"])])
def test_which_splits_are_evaluated(from_opt, keys, train_metrics, names):
    evaluator = from_opt(keys, "cpu", *["--train_metrics"] * train_metrics)
    assert [split.name for split in evaluator.splits] == names
    if "testing_query" in keys:
        assert [loader.dataset.key for loader in evaluator.splits[0].loaders] == [
            "testing_query", "testing_gallery"]


@pytest.mark.parametrize(("argv", "normalize", "device"), [
    (["--arch", "resnet50_normalize"], True, "cuda"),
    (["--arch", "resnet50_frozen", "--evaluate_on_cpu"], False, "cpu")])
def test_the_options_say_whether_to_normalise_and_where_to_measure(from_opt, argv, normalize,
                                                                  device):
    evaluator = from_opt(["testing"], "cuda", *argv)
    assert (evaluator.normalize, str(evaluator.device)) == (normalize, device)


@pytest.mark.parametrize(("n_gpus", "metric", "argv", "said"), [
    (0, "nmi", [], True), (0, "nmi", ["--evaluate_on_cpu"], False), (1, "nmi", [], False),
    (0, "e_recall@1", [], False)])
def test_k_means_on_the_cpu_is_said_once_where_faiss_has_no_gpu(from_opt, monkeypatch, capsys,
                                                               n_gpus, metric, argv, said):
    monkeypatch.setattr("faiss.get_num_gpus", lambda: n_gpus)
    from_opt(["testing"], "cuda", "--evaluation_metrics", "e_recall@1", "--storage_metrics", metric,
             *argv)
    assert ("k-means of the evaluation runs on the CPU" in capsys.readouterr().out) == said


@pytest.fixture
def in_shop(tmp_path):
    """A split of one query a class and one match each, in the opposite order: of five, only the
    middle query has the row of its match."""
    (tmp_path / "gallery").mkdir()
    queries, gallery = (Dataset(folder, 5, 1, dim=5) for folder in (tmp_path, tmp_path / "gallery"))
    gallery.labels, gallery.images = gallery.labels[::-1].copy(), gallery.images.flip(0)
    return Split("Test", Loader(queries), Loader(gallery))


def test_a_gallery_is_what_queries_search_in(build, in_shop, logger):
    evaluator = build(in_shop, evaltypes=["discriminative"])
    evaluator.evaluate(Network(), 0, logger)
    assert evaluator.last["metrics"]["discriminative"]["Test"]["e_recall@1"] == 1
    alone = build(Split("Test", in_shop.queries), evaltypes=["discriminative"])
    alone.evaluate(Network(), 0, logger)
    assert alone.last["metrics"]["discriminative"]["Test"]["e_recall@1"] == 0


def test_queries_are_searched_in_their_gallery_for_every_evaltype(build, in_shop):
    evaltypes = ["discriminative", "Combined_discriminative_shared-100-0.01"]
    evaluator = build(in_shop, evaltypes=evaltypes)
    evaluator.evaluate(Network(), 0)
    for evaltype in evaltypes:
        assert evaluator.last["metrics"][evaltype]["Test"]["e_recall@1"] == 1


def test_retrievals_are_drawn_from_the_gallery_of_the_last_split(build, in_shop, tmp_path, logger,
                                                                 monkeypatch):
    drawn = []

    def draw(rows, _title):
        drawn.append(rows)
        return b""

    monkeypatch.setattr("evaluation.retrievals.draw", draw)
    monkeypatch.setattr(logger, "picture", lambda *_: None)
    (tmp_path / "train").mkdir()
    train = Split("Train", Loader(Dataset(tmp_path / "train", n_classes=3)))
    evaluator = build(train, in_shop, evaltypes=["discriminative"], plots="epoch")
    evaluator.evaluate(Network(), 0, logger)
    assert [len(tiles) for tiles in drawn[0]] == [6] * 5
    for query, (tile, first, *others) in enumerate(drawn[0]):
        assert tile == (str(tmp_path / f"{query}.png"), None, f"class {query}", "query")
        assert first[:3] == (str(tmp_path / "gallery" / f"{4 - query}.png"), True,
                             f"class {query}")
        assert [other.same for other in others] == [False] * 4
