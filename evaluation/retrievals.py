"""A picture of retrievals: query images, each with its nearest neighbours."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from datasets import images
from utilities.plot import PALETTE
from utilities.terminal import escaped

SIDE, FRAME, GAP = 144, 6, 6  # pixels: an image, the frame around it, the space between
RIGHT, WRONG, QUERY, PLAIN = *PALETTE[:2], "#404040", "#BEBEBE"
MARK, LINE, TEXT, TITLE = 13, 16, 11, 15    # pixels: a mark, a line of a caption, sizes of text
CELL = SIDE + 2 * FRAME     # the width of a tile; below it stand two lines
LEGEND = ((True, "of the query's class"), (False, "of another class"))


class Tile(NamedTuple):
    """An image: its file, whether it is of the query's class (None: nobody knows), and the two
    lines of text below it."""

    file: str
    same: bool | None = None
    name: str = ""
    text: str = ""


def spaced(values: np.ndarray, n: int) -> np.ndarray:
    """n of the `values` (N,), or all where there are fewer, evenly spaced, in their order."""
    return values[np.linspace(0, len(values) - 1, min(n, len(values))).astype(int)]


def choose(labels: np.ndarray, n_queries: int) -> np.ndarray:
    """Rows of the queries: the first image of each of n_queries evenly spaced classes."""
    return spaced(np.unique(labels, return_index=True)[1], n_queries)


def worst(hits: np.ndarray, relevant: np.ndarray, nearest: np.ndarray, labels: np.ndarray,
          n_queries: int) -> np.ndarray:
    """Rows of the worst queries, each class in turn, the worst one first.

    hits (N, k) bool: which of each query's neighbours, nearest first, are of its class; relevant
    (N,): how many such images there are; nearest (N,): the distance of the first neighbour; labels
    (N,) of the queries. The worst has the lowest R-precision, the share of hits among the first R
    neighbours, where R is `relevant`, or k where that is less. Of equals it is the one whose first
    hit comes latest, then the one whose first neighbour is nearest. Queries with nothing to find
    are left out.
    """
    k = hits.shape[1]
    depth = np.minimum(relevant, k).clip(min=1)
    precision = (hits & (np.arange(k) < depth[:, None])).sum(1) / depth
    first = np.where(hits.any(1), hits.argmax(1), k)
    order = np.lexsort((nearest, -first, precision))
    order = order[relevant[order] > 0]
    return in_turn(order, labels)[:n_queries]


def in_turn(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows (n,), reordered: the first of each class, in their order, then the second of each,
    and so on. labels (N,)."""
    by_class = np.argsort(labels[rows], kind="stable")
    _, first, counts = np.unique(labels[rows[by_class]], return_index=True, return_counts=True)
    turn = np.empty(len(rows), dtype=int)
    turn[by_class] = np.arange(len(rows)) - np.repeat(first, counts)
    return rows[np.argsort(turn, kind="stable")]


def draw(rows: Sequence[Sequence[Tile]], title: Sequence[str] = ()) -> bytes:
    """The bytes of a PNG with a line for each of `rows`, a query and its neighbours, below the
    lines of `title`.

    Neighbours of the query's class have a blue frame and a tick, others an orange one and a cross,
    and a grey one where nobody knows. What does not fit below a tile is shortened in its middle. A
    file that cannot be read is drawn as an empty tile.
    """
    told = any(tile.same is not None for tiles in rows for tile in tiles)
    top = GAP + (len(title) + told) * (TITLE + GAP) + (GAP if title or told else 0)
    height = CELL + 2 * LINE + GAP
    n_columns = max(map(len, rows), default=1)
    sheet = Image.new("RGB", (n_columns * (CELL + GAP) + 3 * GAP, top + len(rows) * height),
                      "white")
    pen = ImageDraw.Draw(sheet)
    for line, text in enumerate(title):
        write(pen, (GAP, GAP + line * (TITLE + GAP)), text, TITLE, sheet.width - 2 * GAP)
    if told:
        draw_legend(pen, GAP + len(title) * (TITLE + GAP))
    for line, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            left = GAP + column * (CELL + GAP) + (2 * GAP if column else 0)
            draw_tile(sheet, (left, top + line * height), tile, is_query=not column)
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()


def draw_legend(pen: ImageDraw.ImageDraw, y: int) -> None:
    x = GAP
    for same, text in LEGEND:
        draw_mark(pen, x, y + 2, same)
        width = write(pen, (x + MARK + GAP, y), text, TEXT + 1)
        x += MARK + width + 5 * GAP


def draw_tile(sheet: Image.Image, corner: tuple[int, int], tile: Tile, *, is_query: bool) -> None:
    """Draws a tile whose upper left corner is `corner` (x, y)."""
    try:
        image = ImageOps.fit(images.decode(tile.file), (SIDE, SIDE))
    except (OSError, ValueError):
        image = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        ImageDraw.Draw(image).line((0, 0, SIDE, SIDE), fill=QUERY, width=2)
    colour = QUERY if is_query else {True: RIGHT, False: WRONG, None: PLAIN}[tile.same]
    sheet.paste(ImageOps.expand(image, FRAME, colour), corner)
    pen, (x, y) = ImageDraw.Draw(sheet), (corner[0], corner[1] + CELL + 1)
    write(pen, (x, y), tile.name, TEXT, CELL)
    if tile.same is not None:
        draw_mark(pen, x, y + LINE + 1, tile.same)
        x += MARK + GAP
    write(pen, (x, y + LINE), tile.text, TEXT, corner[0] + CELL - x)


def draw_mark(pen: ImageDraw.ImageDraw, x: int, y: int, same: bool) -> None:
    """A white tick on blue or a black cross on orange, MARK pixels wide and high."""
    pen.rectangle((x, y, x + MARK - 1, y + MARK - 1), RIGHT if same else WRONG)
    if same:
        pen.line((x + 2, y + 6, x + 5, y + 9, x + 10, y + 3), "white", 2)
    else:
        pen.line((x + 3, y + 3, x + 9, y + 9), "black", 2)
        pen.line((x + 3, y + 9, x + 9, y + 3), "black", 2)


def write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int,
          width: float = np.inf) -> int:
    """Writes `text`, shortened to `width` pixels; returns how wide it is."""
    type_ = font(size)
    text = shortened(escaped(" ".join(text.split())), lambda part: type_.getlength(part) <= width)
    pen.text(corner, text, "black", type_)
    return int(type_.getlength(text))


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """`text`, or as much of its beginning and its end, with an ellipsis between, as fits."""
    if fits(text):
        return text
    parts = (f"{text[:(n + 1) // 2]}…{text[len(text) - n // 2:]}"
             for n in range(len(text) - 1, 0, -1))
    return next(filter(fits, parts), "…")


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, `size` pixels high."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
