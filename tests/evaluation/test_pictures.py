"""What the pictures of the best epoch show."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metrics
from evaluation import pictures, projection
from evaluation.evaluator import Split
from evaluation.pictures import BINS, LIMIT, N_COLOURED, N_COMPARED, Pictures
from parameters import FLAGS
from tests.utilities.test_plot import texts


def split_of(labels, gallery=None, paths=None):
    """A split of images called by their numbers, or by `paths`, with a gallery of its own where
    that has labels."""
    sides = [np.asarray(side) for side in (labels, gallery) if side is not None]
    paths = paths or [[f"{side}/{i}.png" for i in range(len(of))] for side, of in enumerate(sides)]
    names = [f"class {c}" for c in range(max(map(max, sides)) + 1)]
    return Split("Test", *(
        Namespace(dataset=Namespace(name="tiny", labels=side, paths=of, class_names=names))
        for side, of in zip(sides, paths, strict=True)))


def points_of(split, dim=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(side), dim, generator=generator) for side in split.labels]


# Two of the five queries are gallery images, too: the rows 3 and 0 there.
OVERLAPPING = split_of([0, 0, 1, 1, 2], [1, 2, 2, 0, 0, 1, 3],
                       [["a", "b", "c", "d", "e"], ["c", "x", "y", "a", "z", "u", "v"]])
ALONE = split_of([0, 0, 1, 2, 2, 2, 1])


def pairs(split):
    """(query, row) of each pair whose distance counts."""
    own = split.own
    return [(query, row) for query in range(len(own)) for row in range(len(split.labels[-1]))
            if own[query] != row]


@pytest.mark.parametrize("split", [ALONE, OVERLAPPING])
def test_the_histograms_count_every_pair_but_queries_with_themselves(split):
    points = points_of(split)
    counted = pictures.count_distances(split, points)
    reach = counted["reach"]
    expected = torch.zeros(2, BINS, dtype=torch.int64)
    for query, row in pairs(split):
        distance = float((points[0][query] - points[-1][row]).norm())
        other = split.labels[0][query] != split.labels[-1][row]
        expected[int(other), int(distance / reach * BINS)] += 1
    assert torch.equal(counted["counts"], expected)
    assert (counted["n_queries"], counted["n_all"]) == (len(points[0]),) * 2


def test_far_from_the_origin_and_all_equal_distances_are_counted():
    points = points_of(ALONE)
    near, far = (pictures.count_distances(ALONE, [points[0] + shift]) for shift in (0, 100))
    assert far["reach"] == pytest.approx(near["reach"], rel=1e-4)
    assert (near["counts"] - far["counts"]).abs().sum() <= 4     # rounding at the edges
    equal = pictures.count_distances(ALONE, [torch.ones(7, 3)])["counts"]
    assert equal[:, 0].sum() == 42


def test_of_many_queries_a_bounded_number_is_compared():
    split = split_of(np.arange(N_COMPARED + 500) % 50)
    counted = pictures.count_distances(split, points_of(split))
    assert (counted["n_queries"], counted["n_all"]) == (N_COMPARED, N_COMPARED + 500)
    assert counted["counts"].sum() == N_COMPARED * (N_COMPARED + 499)


def test_histograms_have_the_same_area_and_say_how_many_pairs_there_are():
    counted = pictures.count_distances(ALONE, points_of(ALONE))
    figure = pictures.draw_distances("t", **counted)
    axes, = figure.axes
    for patch in axes.patches:
        heights, edges, _ = patch.get_data()
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said[0].startswith("10 pairs of one class, mean ")
    assert said[1].startswith("32 pairs of two classes, mean ")


def test_one_class_alone_has_a_histogram():
    split = split_of([0, 0, 0])
    figure = pictures.draw_distances("t", **pictures.count_distances(split, points_of(split)))
    assert figure.axes[0].get_legend().get_texts()[1].get_text() == "0 pairs of two classes"


@pytest.mark.parametrize("split", [
    split_of([0]), split_of([0], [0], [["a.png"], ["a.png"]])], ids=["alone", "in the gallery"])
def test_a_single_image_has_pictures(run, split):
    """As a test split may be where a validation split chooses the epochs."""
    drawn, logger = run(split=split)
    drawn.finish(split, logger)
    assert {path.name for path in logger.folder.iterdir()} == {
        pictures.SAMPLES, pictures.WORST, pictures.MAP, "distances.svg", "distances.png"}
    assert drawn.found["samples"] == [[0, [], []]] and drawn.found["worst"] == []


def test_the_map_has_every_image_once():
    points = points_of(OVERLAPPING)
    found = pictures.sample(OVERLAPPING, points)
    only_in_gallery = [1, 2, 4, 5, 6]
    assert torch.equal(found["points"], torch.cat([points[0], points[1][only_in_gallery]]))
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 1, 3]
    assert found["n_all"] == 10 and found["coloured"] == [0, 1, 2]     # 3 has a single image


@pytest.mark.parametrize("n, n_classes, coloured, of_coloured", [
    (LIMIT, 50, N_COLOURED, 480),           # room for all
    (3 * LIMIT, 5, 5, LIMIT),               # all have a colour
    (3 * LIMIT, 24, N_COLOURED, LIMIT // 2),
    (3 * LIMIT, LIMIT, N_COLOURED, 36),     # three images of each class
])
def test_a_map_of_many_images_keeps_the_coloured_classes(n, n_classes, coloured, of_coloured):
    split = split_of(np.arange(n) % n_classes)
    points = points_of(split, dim=2)
    found = pictures.sample(split, points)
    assert len(found["points"]) == len(found["labels"]) == LIMIT and found["n_all"] == n
    assert len(found["coloured"]) == coloured
    assert np.isin(found["labels"], found["coloured"]).sum() == of_coloured
    rows = [int((points[0] == point).all(1).nonzero()) for point in found["points"][::50]]
    assert rows == sorted(set(rows)) and rows[-1] > 0.9 * n
    assert found["labels"][::50].tolist() == split.labels[0][rows].tolist()


def test_the_legend_of_the_map_shortens_names_and_shows_them_as_they_are():
    names = ["_x", "$a$", "n" * 60]
    figure = pictures.draw_map("t", "pca", names, torch.tensor([0, 0, 1, 1, 2, 2]),
                               torch.randn(6, 3), [0, 1, 2], 100)
    document = pictures.plot.saved(figure, "svg", "t").decode()
    assert {"_x", "$a$", f"{'n' * 20}…{'n' * 19}", "6 of 100 images by PCA"} <= set(texts(document))


def test_the_query_is_none_of_its_own_neighbours():
    """Where the gallery is so small that the table holds it, at an infinite distance."""
    points = points_of(OVERLAPPING)
    distances, rows = metrics.knn(*points, 7, own=OVERLAPPING.own)
    distances, rows = distances.numpy(), rows.numpy()
    for query, near, far in pictures.retrieved(np.arange(5), distances, rows):
        assert OVERLAPPING.own[query] not in near and len(near) == len(far) == 6
        assert far == sorted(far)
    small = points[0], points[1][2:5]
    distances, rows = metrics.knn(*small, 3, own=OVERLAPPING.own - 2)
    assert [len(near) for _, near, _ in pictures.retrieved(
        np.arange(5), distances.numpy(), rows.numpy())] == [2, 3, 3, 3, 3]


def test_a_query_in_the_gallery_counts_neither_as_found_nor_as_to_be_found():
    split = split_of([0, 1], [0, 1, 1], [["a", "b"], ["a", "b", "c"]])
    distances = np.array([[1, 2, np.inf], [1, 2, np.inf]], np.float32)
    rows = np.array([[1, 2, 0], [2, 0, 1]])
    assert pictures.worst_queries(split, distances, rows, 8).tolist() == [1]  # 0 finds nothing


@pytest.fixture
def run(tmp_path):
    """run(method, split) -> `Pictures` that have taken an epoch, and a logger."""
    def taken(method="pca", split=ALONE):
        for side in split.loaders:
            side.dataset.paths = [str(tmp_path / Path(path).name) for path in side.dataset.paths]
            for path in side.dataset.paths:
                Image.new("L", (8, 8), len(path)).save(path)
        (tmp_path / "run").mkdir(exist_ok=True)
        points, own = points_of(split), split.own
        table = metrics.knn(points[0], None if split.gallery is None else points[1], 6, own=own)
        drawn = Pictures("end", method)
        drawn.take(split, ("title", "evaltype"), points, table)
        return drawn, Namespace(folder=tmp_path / "run", picture=lambda *_: None)

    return taken


def test_the_method_changes_the_map_alone(run):
    contents = {}
    for method in projection.METHODS:
        drawn, logger = run(method)
        drawn.finish(ALONE, logger)
        contents[method] = {path.name: path.read_bytes() for path in logger.folder.iterdir()}
    assert [name for name in contents["pca"] if contents["pca"][name] != contents["tsne"][name]] \
        == ["map.png"]
    assert FLAGS["map"].accepts == projection.METHODS == tuple(pictures.BY)


def test_pictures_of_images_that_were_left_out_since_then_are_not_drawn(run, capsys):
    drawn, logger = run()
    drawn.finish(split_of([0, 0, 1, 2, 2, 2]), logger)
    assert not list(logger.folder.iterdir())
    assert "left out" in capsys.readouterr().out


def test_it_is_said_where_nothing_was_kept_of_the_best_epoch(capsys):
    Pictures("end").finish(ALONE, None)
    assert "kept nothing of its best epoch" in capsys.readouterr().out
    Pictures("none").finish(ALONE, None)
    assert capsys.readouterr().out == ""
