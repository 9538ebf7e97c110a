"""The picture of sample retrievals."""

import numpy as np
from PIL import Image

from datasets import images
from evaluation import retrievals
from evaluation.retrievals import FRAME, GAP, RIGHT, SIDE, WRONG


def test_queries_are_spread_over_the_classes_and_always_the_same():
    labels = np.repeat(np.arange(20), 3)
    chosen = retrievals.choose(labels, 5)
    assert len(set(labels[chosen])) == 5 and labels[chosen][0] == 0 and labels[chosen][-1] == 19
    assert chosen.tolist() == retrievals.choose(labels, 5).tolist()
    assert retrievals.choose(labels[:6], 5).tolist() == [0, 3]


def test_frames_are_green_where_the_class_is_right(tmp_path):
    for name, colour in (("a", "blue"), ("b", "yellow")):
        Image.new("RGB", (40, 60), colour).save(tmp_path / f"{name}.png")
    a, b, gone = (str(tmp_path / f"{name}.png") for name in ("a", "b", "gone"))
    retrievals.draw(tmp_path / "sheet.png", [(a, [(b, True), (gone, False)]), (b, [(a, False)])],
                    images.decode)
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = SIDE + 2 * FRAME + GAP

        def tile(line, column):
            """The frame's and the centre's colour."""
            x, y = GAP + column * cell + (2 * GAP if column else 0), GAP + line * cell
            return sheet.getpixel((x + 1, y + 1)), sheet.getpixel((x + FRAME + 20, y + cell // 2))

        assert tile(0, 0)[1] == (0, 0, 255)
        assert tile(0, 1) == (RIGHT, (255, 255, 0))
        assert tile(0, 2)[0] == WRONG
        assert tile(1, 1) == (WRONG, (0, 0, 255))


def test_without_classes_the_frame_is_grey_and_a_caption_lies_below(tmp_path):
    Image.new("RGB", (40, 60), "blue").save(tmp_path / "a.png")
    a = str(tmp_path / "a.png")
    retrievals.draw(tmp_path / "sheet.png", [(a, [(a, None, "1: 0.2500"), (a, None)])],
                    images.decode)
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = SIDE + 2 * FRAME + GAP
        left, bottom = 3 * GAP + cell, GAP + FRAME + SIDE - 4
        assert sheet.getpixel((left + 1, GAP + 1)) == retrievals.PLAIN
        assert sheet.getpixel((left + FRAME + SIDE - 4, bottom)) == (255, 255, 255)
        assert sheet.getpixel((left + cell + FRAME + SIDE - 4, bottom)) == (0, 0, 255)
