"""The list of classes, by naive loops."""

import csv
import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import metrics
from evaluation import per_class
from evaluation.evaluator import Split


def split_of(labels, gallery_labels=None, n_classes=6):
    def loader(labels, name):
        return SimpleNamespace(dataset=SimpleNamespace(
            labels=labels, paths=[f"{name}{i}" for i in range(len(labels))],
            class_names=[f"class {c}" for c in range(n_classes)]))
    gallery = None if gallery_labels is None else loader(gallery_labels, "gallery")
    return Split("Test", loader(labels, "query"), gallery)


@pytest.mark.parametrize("with_gallery", [False, True])
def test_the_list_agrees_with_loops_over_queries(with_gallery):
    rng = np.random.default_rng(3)
    # Class 5 has no query with a gallery, class 4 a single image without one.
    labels = np.array([*rng.integers(0, 4, 40), 4, *([] if with_gallery else [5, 5])])
    among = np.array([*rng.integers(0, 4, 30), 5, 5]) if with_gallery else labels
    split = split_of(labels, among if with_gallery else None)
    queries = torch.from_numpy(rng.normal(size=(len(labels), 3))).float()
    gallery = torch.from_numpy(rng.normal(size=(len(among), 3))).float() if with_gallery else None
    measured = metrics.measure(per_class.METRICS, queries, torch.tensor(labels), own=split.own,
                               gallery=(gallery, torch.tensor(among)) if with_gallery else None)
    table = metrics.knn(queries, gallery, 6)[1]
    found = list(csv.DictReader(io.StringIO(per_class.as_csv(
        per_class.rows("both", split, measured.scores, table)))))
    distances = torch.cdist(queries, queries if gallery is None else gallery)
    if gallery is None:
        distances.fill_diagonal_(torch.inf)
    ranked = distances.argsort(1).numpy()
    for c, row in enumerate(found):
        mine = np.flatnonzero(labels == c)
        others = [int((among == c).sum()) - (gallery is None) for _ in mine]
        nearest = [among[ranked[q, 0]] for q in mine]
        precision = [np.mean(among[ranked[q, :n]] == c)
                     for q, n in zip(mine, others, strict=True) if n]
        images = (labels == c).sum() + ((among == c).sum() if with_gallery else 0)
        assert (row["class"], row["evaltype"], row["split"]) == (f"class {c}", "both", "Test")
        assert (int(row["images"]), int(row["queries"])) == (images, len(mine))
        assert row["e_recall@1"] == (f"{np.mean(np.array(nearest) == c):.6f}" if len(mine) else "")
        assert row["r_precision"] == (f"{np.mean(precision):.6f}" if precision else "")
        wrong = Counter(other for other in nearest if other != c)
        assert int(row["times"]) == max(wrong.values(), default=0)
        most = min((o for o, n in wrong.items() if n == int(row["times"])), default=None)
        assert row["taken_for"] == ("" if most is None else f"class {most}")


def test_a_single_image_is_taken_for_no_other():
    split, point = split_of(np.array([0]), n_classes=1), torch.ones(1, 3)
    measured = metrics.measure(per_class.METRICS, point, torch.tensor([0]), own=split.own)
    row, = per_class.rows("both", split, measured.scores, metrics.knn(point, None, 6)[1])
    assert row == ("both", "Test", "class 0", 1, 1, "0.000000", "", "", 0)


def test_the_scores_of_queries_average_to_the_metrics():
    labels = torch.arange(40) % 7
    labels[0] = 9       # a query without another image of its class
    names = ["e_recall@1", "c_recall@2", "mAP", "mAP_c", "mAP_r", "r_precision", "a_recall@1"]
    measured = metrics.measure([*names, "nmi", "dists@intra"], torch.randn(40, 5), labels)
    assert list(measured.scores) == names
    for name, scores in measured.scores.items():
        assert scores.shape == (40,)
        assert measured.values[name] == pytest.approx(np.nanmean(scores.numpy()))
    assert measured.scores["r_precision"].isnan().tolist() == [True] + [False] * 39
    one = measured.of(torch.arange(40) < 1)
    assert one["r_precision"] == 0 and one["e_recall@1"] == 0
