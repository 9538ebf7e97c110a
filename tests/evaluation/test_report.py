"""The page about a run: its numbers by naive loops, and in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import architectures
from evaluation import embed, history, report, thumbnails
from evaluation.pictures import N_NEIGHBOURS
from tests import runs, trees
from tests.evaluation.conftest import EVALTYPES
from tests.tools import call

LAST = EVALTYPES[-1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def copy(run, tmp_path):
    """A folder of its own for what the tool writes; the images stay where they are."""
    return shutil.copytree(run, tmp_path / "copy")


def write(folder: Path, *argv) -> dict:
    """The data of the page that the tool writes into `folder`."""
    assert call(report, folder, "--kernels", 0, *argv) == 0
    return data_of(folder / "report.html")


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="[^#]|url\(|@import|//[a-z]',
                         text.split('<script type="application/json"')[0])
    found, = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def rows_of(page: dict) -> list[dict]:
    return [row for part in page["retrievals"].values() for row in part]


def check_retrievals(page: dict, points: torch.Tensor, files: list[str], labels: list[int]) -> None:
    """The page's retrievals against all distances of the queries `points` (N, D) among them."""
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    for row in rows_of(page):
        query = files.index(row["file"])
        order = distances[query].argsort()[:N_NEIGHBOURS].tolist()
        assert [files.index(near[3]) for near in row["neighbours"]] == order
        assert [near[1] for near in row["neighbours"]] == [labels[i] for i in order]
        np.testing.assert_allclose([near[2] for near in row["neighbours"]],
                                   distances[query][order], rtol=1e-3)
        near = distances[query].argsort()[:labels.count(labels[query]) - 1]
        hits = [labels[i] == labels[query] for i in near.tolist()]
        assert row["label"] == labels[query]
        assert row["precision"] == pytest.approx(np.mean(hits))


def test_the_page_shows_what_loops_over_all_distances_find(copy, images):
    page = write(copy)
    paths = sorted(images.glob("*/image*.jpg"))[16:]
    network, options = architectures.load(copy / f"checkpoint_{LAST}_e_recall@1.pth.tar")
    points = embed.embeddings(network, options, paths)[LAST]
    labels = (np.arange(16) // 4).tolist()
    files = [report.short(str(path)) for path in paths]
    assert page["names"] == [f"{c:03d}.Class_{c}" for c in range(5, 9)]
    check_retrievals(page, points, files, labels)
    precision = [row["precision"] for row in page["retrievals"]["worst"]]
    assert len(precision) == 16 and precision[0] == min(precision)
    assert [sorted(row["label"] for row in page["retrievals"][part][:4])
            for part in ("random", "worst")] == [[0, 1, 2, 3]] * 2      # classes take turns
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    nearest = [labels[i] for i in distances.argmin(1).tolist()]
    taken = {}
    for label, other in zip(labels, nearest, strict=True):
        if label != other:
            taken[label, other] = taken.get((label, other), 0) + 1
    for one, other, times, back, *_ in page["pairs"]:
        assert (times, back) == (taken.pop((one, other)), taken.pop((other, one), 0))
    assert not taken and page["n_pairs"] == len(page["pairs"])
    hits = np.equal(labels, nearest)
    assert page["means"]["e_recall@1"] == pytest.approx(hits.mean())
    assert [entry[2] for entry in page["classes"]] == pytest.approx(
        hits.reshape(4, 4).mean(1).tolist())
    assert [point[2:] for point in page["map"]["points"]] == [
        [label, bool(hit), file] for label, hit, file in zip(labels, hits, files, strict=True)]
    assert len(page["images"]) == len(set(report.numbers(page))) == 16
    assert page["counts"] == {"images": 16, "queries": 16, "classes": 4,
                              "queries_with_nothing_to_find": 0}


def test_the_page_tells_how_the_run_went(copy, capsys):
    page = write(copy)
    assert (page["run"], page["dataset"], page["evaltype"]) == ("copy", "tiny", LAST)
    assert (page["epoch"], page["epochs"], page["n_epochs"], page["left_out"]) == (0, 1, 1, [])
    assert f"{LAST}: 16 queries" in capsys.readouterr().out
    given = dict(page["given"])
    assert given["--lr"] == "0.001" and given["--arch"] == "squeezenet1_1_normalize"
    assert given["--diva_features"] == "discriminative shared"
    assert not {"--seed", "--loss", "--wandb_key"} & set(given)
    options = dict(page["options"])
    assert options["--loss"] == "margin" and "--wandb_key" not in options
    assert any("torch: " in text for text in page["environment"])
    table, = page["tables"]
    assert table["title"] == "Test" and table["columns"] == ["e_recall@1", "mAP_r"]
    assert [row[1:3] for row in table["rows"]] == [["best e_recall@1", 0], ["last", 0]] * 5
    for evaltype, _, _, (recall, mean) in table["rows"]:
        with open(copy / "CSV_Logs" / f"Data_Test_{evaltype}_e_recall.csv") as file:
            assert float(list(csv.reader(file))[-1][0]) == recall
        with open(copy / "CSV_Logs" / f"Data_Test_{evaltype}_mAP_r.csv") as file:
            assert float(list(csv.reader(file))[-1][0]) == mean
    assert {curve["title"] for curve in page["curves"]} >= {"Train: loss", f"Test: {LAST}_mAP_r"}
    for curve in page["curves"]:
        assert curve["epochs"] == [0] and len(curve["rows"][0]) == len(curve["names"])


def test_the_options_choose_evaltype_map_and_images(copy, images, tmp_path):
    first = write(copy)
    other = write(copy, "--evaltype", "shared", "--map", "tsne")      # replaces its own page
    assert (other["evaltype"], other["map"]["method"]) == ("shared", "tsne")
    assert first["map"]["method"] == "pca"
    points = [[point[:2] for point in page["map"]["points"]] for page in (first, other)]
    assert not np.allclose(*points)
    moved = shutil.copytree(images.parents[1], tmp_path / "moved")
    broken = moved / "tiny/images/008.Class_8/image_03.jpg"
    broken.write_bytes(b"nothing")
    assert write(copy, "--source_path", moved, "--skip_broken_images")["counts"]["images"] == 15
    assert call(report, copy, "--source_path", moved, "--kernels", 0) == 2


def test_other_test_images_than_the_runs_are_refused(copy, images, tmp_path, capsys):
    moved = shutil.copytree(images.parents[1], tmp_path / "moved")
    (moved / "tiny/images/008.Class_8/image_03.jpg").unlink()
    capsys.readouterr()
    assert call(report, copy, "--source_path", moved, "--kernels", 0) == 2
    assert capsys.readouterr().err == (
        "evaluation.report: error: --source_path: the testing images are not those of the run: 16 "
        "then, 15 now, or other names; accepted: the same files\n")
    assert not (copy / "report.html").exists()


def test_a_file_of_the_user_is_kept(copy, capsys):
    (copy / "report.html").write_text("<p>mine")
    assert call(report, copy, "--kernels", 0) == 2
    assert (copy / "report.html").read_text() == "<p>mine"


def test_a_run_that_has_saved_no_epoch_but_a_best_checkpoint_has_a_page(copy):
    for name in ("checkpoint_last.pth.tar", "training_summary.txt", "Parameter_Info.txt"):
        (copy / name).unlink()
    page = write(copy)
    assert (page["epoch"], page["epochs"], page["curves"], page["tables"]) == (None, 0, [], [])
    assert page["environment"] == [] and len(page["retrievals"]["worst"]) == 16


def hard_table(tmp_path: Path) -> Path:
    """A table with queries, a gallery and categories, whose classes have names that are long, not
    Latin, and HTML; one image is grey, one has few pixels."""
    names = ["</script><b onload=alert(1)>&amp;$data", "多様な視覚的特徴の集約" * 6, "x" * 60]
    table = []
    for c, name in enumerate([*"abc", *names]):
        for i in range(6):
            row = {"path": f"pictures/{c}_{i}.png", "label": name,
                   "split": "train" if c < 3 else "validation", "is_query": "", "is_gallery": "",
                   "category": ""}
            if c >= 3:
                row |= {"is_query": i % 2 == 0, "is_gallery": i % 2 == 1 or i == 4,
                        "category": "even" if c % 2 == 0 else "odd"}
            table.append(row)
    folder = trees.table(tmp_path / "data" / "hard", table)
    Image.new("L", (48, 40), 77).save(folder / "pictures/3_0.png")
    trees.picture(1, (3, 2)).save(folder / "pictures/4_1.png")
    return runs.train(tmp_path, "--dataset", "hard", "--arch", "squeezenet1_1_normalize")


def test_queries_a_gallery_categories_and_any_name_have_a_page(tmp_path):
    folder = hard_table(tmp_path)
    page = write(folder)
    assert page["names"][0] == "</script><b onload=alert(1)>&amp;$data"
    assert page["counts"]["queries"] == 9 and page["counts"]["images"] == 18
    assert len(page["map"]["points"]) == page["map"]["of"] == 18
    assert [point[3] is None for point in page["map"]["points"]] == [False] * 9 + [True] * 9
    assert [table["title"] for table in page["tables"]] == ["Test", "Test, even", "Test, odd"]
    for row in rows_of(page):
        assert row["file"] not in [near[3] for near in row["neighbours"]]
        assert all(int(near[3][-5]) % 2 or near[3][-5] == "4" for near in row["neighbours"])


def test_in_shop_has_a_page(tmp_path):
    trees.in_shop(tmp_path / "data" / "in-shop", n_classes=16)
    page = write(runs.train(tmp_path, "--dataset", "in-shop", "--train_val_split", 0.7,
                            "--train_val_split_by_class"))
    assert [table["title"] for table in page["tables"]] == ["Val", "Test"]
    assert page["map"]["of"] == page["counts"]["images"] == 32


def test_a_run_tested_on_one_image_is_refused(tmp_path, capsys):
    trees.split_folders(tmp_path / "data" / "split", train=3, val=3)
    trees.write(tmp_path / "data/split/test/9/0.jpg", 1)
    folder = runs.train(tmp_path, "--dataset", "split", "--plots", "end")
    assert (folder / "map.png").exists()
    assert call(report, folder, "--kernels", 0) == 2
    assert "tested on one image" in capsys.readouterr().err


def test_what_does_not_fit_is_left_out_and_told(copy):
    page = write(copy)
    page["retrievals"]["further"] = page["retrievals"]["worst"][8:]
    page["retrievals"]["worst"] = page["retrievals"]["worst"][:1]
    page["retrievals"]["random"], page["pairs"] = [], []
    whole, told = report.fitted(page, 10**9)
    assert told == [] and len(page["images"]) == 16
    small, told = report.fitted(page, len(whole) - 100)
    assert len(small) < len(whole) - 100
    assert told[0].startswith("Left out 1 of 8 further retrievals") and told[0].encode() in small
    least, told = report.fitted(page, 1)
    assert len(least) < len(small) and told[0].startswith("Left out 7 of 7")
    assert len(page["images"]) == 1 + max(report.numbers(page))


def test_classes_take_turns():
    rng = np.random.default_rng(0)
    labels, rows = rng.integers(0, 5, 40), rng.permutation(40)[:30]
    expected, left = [], rows.tolist()
    while left:
        turn = {}
        for row in left:
            turn.setdefault(labels[row], row)
        expected += sorted(turn.values(), key=left.index)
        left = [row for row in left if row not in turn.values()]
    assert report.in_turn(rows, labels).tolist() == expected
    assert report.in_turn(rows[:0], labels).tolist() == []


def test_images_that_cannot_be_read_are_empty_tiles(tmp_path):
    good = str(trees.write(tmp_path / "a.png", 1, (300, 40)))
    bad = trees.write(tmp_path / "b.png", 2)
    bad.write_bytes(bad.read_bytes()[:50])
    paths = [good, str(bad), str(tmp_path / "none.png")]
    first, *others = thumbnails.each(paths, 64)
    assert first.startswith("data:image/jpeg;base64,") and others == [None, None]
    uri, columns = thumbnails.sheet(paths, 16)
    assert uri.startswith("data:image/jpeg;base64,") and columns == 2
    assert thumbnails.small(good, 64).size == (64, 9)


def test_a_long_curve_is_thinned_and_keeps_its_last_point():
    n = 2 * history.MOST_POINTS + 4     # of which the last is no third one
    series = {"split": "Train", "group": "loss", "segments": ["loss"],
              "epochs": torch.arange(n), "rows": torch.arange(n, dtype=torch.float64)[:, None]}
    thin = history.curve(series)
    assert len(thin["epochs"]) <= history.MOST_POINTS and thin["epochs"][-1] == n - 1
    assert [row[0] for row in thin["rows"]] == pytest.approx(thin["epochs"], rel=1e-4)
    few = history.curve(series | {"epochs": torch.arange(3), "rows": torch.ones(3, 1)})
    assert few["epochs"] == [0, 1, 2]


@pytest.fixture(scope="module")
def hard_page(tmp_path_factory):
    folder = hard_table(tmp_path_factory.mktemp("hard"))
    write(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_works_in_a_browser(browser, hard_page, width, scheme):
    page_data = data_of(hard_page)
    tab = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme,
                              reduced_motion="reduce").new_page()
    wrong, requests = [], []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(hard_page.as_uri())
    names = page_data["names"]
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 200 or scheme == "light"
    assert tab.evaluate("document.documentElement.scrollWidth") == width    # nothing sticks out
    assert names[0] in tab.locator("#classes").inner_text() and tab.locator("b").count() == 0

    shown = tab.locator("#random .retrieval")
    before = shown.count()
    tab.locator("#class").fill(names[1][:5])
    assert 0 < shown.count() < before
    assert tab.locator("#classes tbody tr th").first.inner_text() in names
    assert tab.locator("#random .tile.query").first.inner_text().count(names[1]) == 1
    assert "1 class of 3" in tab.locator("#matching").inner_text()
    tab.get_by_role("button", name="All", exact=True).click()
    assert shown.count() == before

    for tile in tab.locator("#random .tile:not(.query)").all():
        mark = "✓" if "right" in tile.get_attribute("class") else "✗"
        assert mark in tile.inner_text()
    column = tab.locator("#classes th button", has_text="class").first
    column.click()
    listed = tab.locator("#classes tbody th").all_inner_texts()
    column.click()
    assert tab.locator("#classes tbody th").all_inner_texts() == listed[::-1]
    assert tab.locator("#classes th[aria-sort=descending]").count() == 1

    canvas, caption = tab.locator("#map-canvas"), tab.locator("#map-image figcaption")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = tab.evaluate("filtered[2].places")
    tab.mouse.move(box["x"] + places[5][0], box["y"] + places[5][1])
    assert names[page_data["map"]["points"][5][2]] in caption.inner_text()
    pixels = "document.querySelector('#map-image canvas').toDataURL()"
    first = tab.evaluate(pixels)
    canvas.focus()
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        tab.keyboard.press(key)
        if tab.evaluate(pixels) != first:
            break
    assert tab.evaluate(pixels) != first
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    for label in tab.locator("input").all():
        assert tab.evaluate("input => input.labels.length", label.element_handle()) == 1
    assert tab.evaluate("[...document.images].every((image) => image.alt)")
    assert wrong == [] and requests[1:] == [url for url in requests[1:] if url[:5] == "data:"]


@pytest.mark.slow
def test_a_class_can_be_chosen_whatever_its_name(browser, hard_page, tmp_path):
    """The filter's field holds no line breaks; names may differ in case alone."""
    names = ["Cat", "cat", " line\nbreak"]
    page = tmp_path / "report.html"
    page.write_bytes(report.rendered(data_of(hard_page) | {"names": names}))
    tab = browser.new_page()
    tab.goto(page.as_uri())
    for label, name in enumerate(names):
        tab.evaluate("""(name) => [...document.querySelectorAll("#classes tbody th button")]
            .find((button) => button.textContent === name).click()""", name)
        assert tab.evaluate("[...matching()]") == [label]
        tab.get_by_role("button", name="All", exact=True).click()
    for text, labels in {"CAT": [0, 1], "ca": [0, 1], "Break": [2], "dog": []}.items():
        tab.locator("#class").fill(text)
        assert tab.evaluate("[...matching()]") == labels
