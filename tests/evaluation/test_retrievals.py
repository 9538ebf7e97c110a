"""The picture of sample retrievals."""

import numpy as np
import torch
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


def test_neighbours_come_in_order_without_the_query_itself():
    points = torch.tensor([[0.0], [0.0], [3.0], [1.0]])
    found = retrievals.nearest(points[[0, 2]], points, 3, own=np.array([0, 2]))
    assert found[0].tolist() == [1, 3, 2] and found[1, 0] == 3 and 2 not in found[1]


def test_the_query_itself_is_left_out_where_all_others_are_shown():
    points = torch.tensor([[0.0], [2.0], [1.0]])
    for k in (2, 3, 6):
        assert retrievals.nearest(points[:1], points, k, own=np.array([0])).tolist() == [[2, 1]]


def test_near_images_far_from_the_origin_come_in_order():
    gallery = 1000 + torch.arange(40.0)[:, None] / 100
    found = retrievals.nearest(gallery[:1].expand(30, 1), gallery, 40)
    assert (found == torch.arange(40)).all()


def test_a_gallery_apart_leaves_nothing_out():
    gallery = torch.tensor([[5.0], [0.0]])
    assert retrievals.nearest(torch.tensor([[5.0]]), gallery, 6).tolist() == [[0, 1]]


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
