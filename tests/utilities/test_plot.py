import math
import re
from xml.etree import ElementTree

import pytest

from utilities import plot

SVG = "{http://www.w3.org/2000/svg}"


def texts(document):
    root = ElementTree.fromstring(document)
    return ["".join(entry.itertext()) for entry in root.iter(f"{SVG}text")]


def curve_paths(document):
    """The paths of the curves, as lists of commands such as ("M", "1", "2")."""
    lines = [group for group in ElementTree.fromstring(document).iter(f"{SVG}g")
             if group.get("id", "").startswith("line2d_")]
    paths = [path for group in lines for path in group.findall(f"{SVG}path")
             if "stroke-width: 1.5" in path.get("style", "")]
    return [re.findall(r"([ML]) (\S+) (\S+)", path.get("d")) for path in paths]


def test_title_names_and_last_values_are_readable_text():
    document = plot.curves("<a & $b$>", [0, 1], [[0.5, 3.0], [0.25, 4.0]], ["e_recall@1", "x<$y$"])
    assert {"<a & $b$>", "e_recall@1: 0.25", "x<$y$: 4", "epoch"} <= set(texts(document))


def test_a_curve_has_a_point_per_epoch_and_rises_where_its_values_rise():
    rising, falling = curve_paths(
        plot.curves("t", [0, 5, 10], [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], ["up", "down"]))[:2]
    assert len(rising) == len(falling) == 3
    heights = [float(point[2]) for point in rising]
    assert heights == sorted(heights, reverse=True)  # SVG counts downwards
    assert [float(point[2]) for point in falling] == pytest.approx(heights[::-1])


def test_a_value_that_is_not_finite_interrupts_the_curve():
    rows = [[1.0], [2.0], [math.nan], [3.0], [4.0]]
    path = curve_paths(plot.curves("t", range(5), rows, ["a"]))[0]
    assert [command for command, *_ in path] == ["M", "L", "M", "L"]


def test_the_same_numbers_give_the_same_text():
    arguments = ("t", [0, 1], [[1.0], [2.0]], ["a"])
    assert plot.curves(*arguments) == plot.curves(*arguments)


def strokes(document):
    """(colour, dashes) of each curve."""
    lines = [group for group in ElementTree.fromstring(document).iter(f"{SVG}g")
             if group.get("id", "").startswith("line2d_")]
    styles = [path.get("style", "") for group in lines for path in group.findall(f"{SVG}path")]
    return [(re.search(r"stroke: (#\w+)", style)[1],
             (re.search(r"stroke-dasharray: ([\d., ]+)", style) or ["", ""])[1])
            for style in styles if "stroke-width: 1.5" in style]


def test_groups_have_colours_and_values_have_dashes():
    """Seven evaltypes and four ks: 28 curves that differ, and two legends that name them."""
    names = [f"e_recall@{k}" for k in (1, 2, 4, 8)]
    groups = {f"_evaltype ${i}$": ([0, 1], [[0.1 * i] * 4, [0.2, 0.3, 0.4, 0.125]])
              for i in range(7)}
    document = plot.together("Test: e_recall", groups, names)
    drawn = strokes(document)[:28]
    assert len(set(drawn)) == 28
    assert len({colour for colour, _ in drawn}) == 7 and len({dashes for _, dashes in drawn}) == 4
    assert {colour for colour, _ in drawn[:4]} == {plot.PALETTE[0].lower()}
    said = set(texts(document))
    assert {*names, "Test: e_recall", "epoch"} <= said
    assert {f"_evaltype ${i}$: 0.2, 0.3, 0.4, 0.125" for i in range(7)} <= said
    assert document == plot.together("Test: e_recall", groups, names)


def test_a_drawing_of_a_name_in_a_script_without_font_warns_of_nothing(recwarn):
    plot.together("t", {"北京": ([0], [[1.0]]), "\udcff": ([0], [[2.0]])}, ["nmi"])
    assert not recwarn


def test_one_epoch_and_no_epoch_are_drawn():
    assert "a: 1" in texts(plot.curves("t", [0], [[1.0]], ["a"]))
    plot.curves("t", [], [], ["a"])
