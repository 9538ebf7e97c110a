"""The pictures of retrievals."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from evaluation import retrievals
from evaluation.retrievals import (
    CELL,
    GAP,
    LINE,
    MARK,
    PLAIN,
    QUERY,
    RIGHT,
    TITLE,
    WRONG,
    Tile,
)

TOLD = GAP + TITLE + GAP + GAP      # pixels above the tiles where there is a legend


def rgb(colour):
    return ImageColor.getrgb(colour)


def test_queries_are_spread_over_the_classes_and_always_the_same():
    labels = np.repeat(np.arange(20), 3)
    chosen = retrievals.choose(labels, 5)
    assert len(set(labels[chosen])) == 5 and labels[chosen][0] == 0 and labels[chosen][-1] == 19
    assert chosen.tolist() == retrievals.choose(labels, 5).tolist()
    assert retrievals.choose(labels[:6], 5).tolist() == [0, 3]


def naively_worst(hits, relevant, nearest, labels, n):
    def badness(row):
        depth = min(relevant[row], hits.shape[1])
        first = next((rank for rank, hit in enumerate(hits[row]) if hit), hits.shape[1])
        return sum(hits[row][:depth]) / depth, -first, nearest[row]

    order = sorted((row for row in range(len(hits)) if relevant[row]), key=badness)
    chosen = []
    while order:        # a turn of each class
        turn = {}
        for row in order:
            turn.setdefault(labels[row], row)
        chosen += turn.values()
        order = [row for row in order if row not in chosen]
    return chosen[:n]


@pytest.mark.parametrize("n", [3, 8, 100])
def test_the_worst_queries_have_few_late_hits_and_several_classes(n):
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(0, 5, 30)
        found = (rng.random((30, 4)) < 0.4, rng.integers(0, 7, 30), rng.random(30), labels)
        assert retrievals.worst(*found, n).tolist() == naively_worst(*found, n)


def test_of_two_queries_without_a_hit_the_one_with_the_nearer_mistake_is_worse():
    hits = np.array([[False, False], [True, False], [False, False], [False, True]])
    worst = retrievals.worst(hits, np.full(4, 1), np.array([0.5, 0.1, 0.2, 0.1]), np.arange(4), 4)
    assert worst.tolist() == [2, 0, 3, 1]


@pytest.fixture
def sheet(tmp_path):
    """sheet(rows, title) -> what `draw` writes of tiles whose files are called by their colour."""
    def draw(rows, title=()):
        for tile in (tile for tiles in rows for tile in tiles):
            if tile.file != "gone":
                Image.new("RGB", (40, 60), tile.file).save(tmp_path / tile.file, "PNG")
        placed = [[tile._replace(file=str(tmp_path / tile.file)) for tile in tiles]
                  for tiles in rows]
        return Image.open(io.BytesIO(retrievals.draw(placed, title)))

    return draw


def corner(line, column, top=TOLD):
    return (GAP + column * (CELL + GAP) + (2 * GAP if column else 0),
            top + line * (CELL + 2 * LINE + GAP))


def test_frames_and_marks_tell_right_from_wrong_in_colours_that_all_people_tell_apart(sheet):
    picture = sheet([[Tile("blue"), Tile("yellow", True, text="0.5"), Tile("gone", False)],
                     [Tile("yellow"), Tile("blue", False)]])

    def look(line, column):
        """The colours of the frame, of the image's centre, and of the mark."""
        x, y = corner(line, column)
        mark = picture.crop((x, y + CELL + LINE + 2, x + MARK, y + CELL + LINE + 2 + MARK))
        return (picture.getpixel((x + 1, y + 1)), picture.getpixel((x + CELL // 2, y + CELL // 3)),
                {colour for _, colour in mark.getcolors()})

    white, black = rgb("white"), rgb("black")
    assert look(0, 0) == (rgb(QUERY), rgb("blue"), {white})
    assert look(0, 1) == (rgb(RIGHT), rgb("yellow"), {rgb(RIGHT), white})
    assert look(0, 2)[::2] == (rgb(WRONG), {rgb(WRONG), black})
    assert look(1, 1) == (rgb(WRONG), rgb("blue"), {rgb(WRONG), black})
    (*_, blue), (red, *_) = rgb(RIGHT), rgb(WRONG)
    assert blue > 128 > rgb(RIGHT)[0] and red > 128 > rgb(WRONG)[2]


def test_without_classes_the_frame_is_grey_and_nothing_is_marked(sheet):
    picture = sheet([[Tile("blue"), Tile("blue", None, "a.png", "1: 0.2500"), Tile("blue")]])
    x, _ = corner(0, 1)
    below = picture.crop((x, CELL + GAP, x + CELL, CELL + GAP + 2 * LINE))
    assert picture.getpixel((x + 1, GAP + 1)) == rgb(PLAIN)
    assert all(r == g == b for _, (r, g, b) in below.getcolors()) and len(below.getcolors()) > 2
    x, _ = corner(0, 2)
    assert picture.crop((x, CELL + GAP, x + CELL, CELL + GAP + 2 * LINE)).getcolors() == [
        (CELL * 2 * LINE, rgb("white"))]


@pytest.mark.parametrize("name", ["x" * 60, "W" * 300, "two\nlines", "\udcff", "$x_1$ 北京"])
def test_a_name_stays_within_its_tile(sheet, name):
    picture = sheet([[Tile("blue", name=name), Tile("blue", True, name, name)]], [name])
    x, y = corner(0, 0, TOLD + TITLE + GAP)
    gap = picture.crop((x + CELL, y, x + CELL + GAP, picture.height))
    assert gap.getcolors() == [(gap.width * gap.height, rgb("white"))]
    assert picture.crop((x, y + CELL, x + CELL, picture.height)).getcolors()[1:]


def test_a_name_is_shortened_in_its_middle_and_no_more_than_needed():
    def fits(text):
        return len(text) <= 7

    assert retrievals.shortened("seven77", fits) == "seven77"
    assert retrievals.shortened("001.Black_bird", fits) == "001…ird"
    assert retrievals.shortened("abcdefgh", fits) == "abc…fgh"
    assert retrievals.shortened("abc", lambda text: len(text) < 2) == "…"


def test_the_mark_of_a_legend_and_the_titles_make_the_picture_higher(sheet):
    rows = [[Tile("blue"), Tile("blue", True)]]
    plain, titled = sheet(rows), sheet(rows, ["one", "two"])
    assert titled.height == plain.height + 2 * (TITLE + GAP)
    assert sheet([[Tile("blue"), Tile("blue")]]).height == plain.height - TITLE - 2 * GAP
