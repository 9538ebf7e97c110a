"""A picture of retrievals: query images, each with its nearest neighbours."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from utilities.checkpoint import replace

SIDE, FRAME, GAP = 128, 5, 6  # pixels: an image, the frame around it, the space between
RIGHT, WRONG, QUERY, PLAIN = (40, 160, 70), (205, 50, 50), (90, 90, 90), (190, 190, 190)
FRAMES = {True: RIGHT, False: WRONG, None: PLAIN}
CAPTION = 14        # pixels, of a caption's line


def choose(labels: np.ndarray, n_queries: int) -> np.ndarray:
    """Rows of the queries: the first image of each of n_queries evenly spaced classes."""
    _, first = np.unique(labels, return_index=True)
    return first[np.linspace(0, len(first) - 1, min(n_queries, len(first))).astype(int)]


class Tile(NamedTuple):
    """A neighbour: its file, whether it is of the query's class (None: nobody knows), and a line of
    text to lay over it."""

    file: str
    same: bool | None
    caption: str = ""


def draw(path: str | Path, rows: Sequence[tuple[str, Sequence[tuple]]],
         read: Callable[[str], Image.Image]) -> None:
    """Writes a PNG with a line for each (query's file, its neighbours as fields of `Tile`).

    Neighbours of the query's class have a green frame, others a red one, a grey one where nobody
    knows. read: opens a file as an RGB image; a file that cannot be read is drawn as an empty tile.
    """
    cell = SIDE + 2 * FRAME + GAP
    n_columns = 1 + max((len(neighbours) for _, neighbours in rows), default=0)
    sheet = Image.new("RGB", (n_columns * cell + 3 * GAP, len(rows) * cell + GAP), "white")
    for line, (query, neighbours) in enumerate(rows):
        tiles = [_tile(query, "", QUERY, read)]
        for file, same, caption in (Tile(*neighbour) for neighbour in neighbours):
            tiles.append(_tile(file, caption, FRAMES[same], read))
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (GAP + column * cell + (2 * GAP if column else 0), GAP + line * cell))
    replace(Path(path), lambda file: sheet.save(file, format="PNG"))


def _tile(file: str, caption: str, colour: tuple[int, int, int], read) -> Image.Image:
    try:
        image = ImageOps.fit(read(file), (SIDE, SIDE))
    except (OSError, ValueError):
        image = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        ImageDraw.Draw(image).line((0, 0, SIDE, SIDE), fill=WRONG)
    if caption:
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, SIDE - CAPTION, SIDE, SIDE), fill="white")
        draw.text((3, SIDE - CAPTION), caption, "black", ImageFont.load_default(CAPTION - 3))
    return ImageOps.expand(image, FRAME, colour)
