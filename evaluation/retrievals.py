"""A picture of retrievals: query images, each with its nearest neighbours."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from utilities.checkpoint import replace

SIDE, FRAME, GAP = 128, 5, 6  # pixels: an image, the frame around it, the space between
RIGHT, WRONG, QUERY = (40, 160, 70), (205, 50, 50), (90, 90, 90)


def choose(labels: np.ndarray, n_queries: int) -> np.ndarray:
    """Rows of the queries: the first image of each of n_queries evenly spaced classes."""
    _, first = np.unique(labels, return_index=True)
    return first[np.linspace(0, len(first) - 1, min(n_queries, len(first))).astype(int)]


def draw(path: str | Path, rows: Sequence[tuple[str, Sequence[tuple[str, bool]]]],
         read: Callable[[str], Image.Image]) -> None:
    """Writes a PNG with a line for each (query's file, [(neighbour's file, same class), ...]).

    Neighbours of the query's class have a green frame, others a red one. read: opens a file as an
    RGB image; a file that cannot be read is drawn as an empty tile.
    """
    cell = SIDE + 2 * FRAME + GAP
    n_columns = 1 + max((len(neighbours) for _, neighbours in rows), default=0)
    sheet = Image.new("RGB", (n_columns * cell + 3 * GAP, len(rows) * cell + GAP), "white")
    for line, (query, neighbours) in enumerate(rows):
        tiles = [(query, QUERY)] + [(file, RIGHT if same else WRONG) for file, same in neighbours]
        for column, (file, colour) in enumerate(tiles):
            corner = (GAP + column * cell + (2 * GAP if column else 0), GAP + line * cell)
            sheet.paste(_tile(file, colour, read), corner)
    replace(path, lambda file: sheet.save(file, format="PNG"))


def _tile(file: str, colour: tuple[int, int, int], read) -> Image.Image:
    try:
        image = ImageOps.fit(read(file), (SIDE, SIDE))
    except (OSError, ValueError):
        image = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        ImageDraw.Draw(image).line((0, 0, SIDE, SIDE), fill=WRONG)
    return ImageOps.expand(image, FRAME, colour)
