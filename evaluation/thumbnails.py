"""Images small enough for a page: each as a JPEG, or many as the tiles of one."""

import base64
import io
import math
from collections.abc import Sequence

from PIL import Image, ImageOps

from datasets import images
from utilities.environment import available_cores

QUALITY = 75
EMPTY = (128, 128, 128)


def small(path: str, side: int) -> Image.Image | None:
    """The image at `path` as it was evaluated, shrunk to fit `side` pixels; None where it cannot be
    read."""
    try:
        image = images.read(path)
    except Exception as error:
        if not images.lies_in_the_file(error):
            raise
        return None
    image.thumbnail((side, side))
    return image


def each(paths: Sequence[str], side: int) -> list[str | None]:
    """A data URI for each image, None for one that cannot be read."""
    def uri(path: str) -> str | None:
        image = small(path, side)
        return image and as_uri(image)

    return list(images.in_parallel(uri, paths, available_cores(), "Shrinking images"))


def sheet(paths: Sequence[str], side: int) -> tuple[str, int]:
    """All images as square tiles of one, row by row, and how many stand in a row; the tile of an
    image that cannot be read is grey."""
    columns = max(1, math.ceil(math.sqrt(len(paths))))
    whole = Image.new("RGB", (columns * side, max(1, math.ceil(len(paths) / columns)) * side),
                      EMPTY)

    def tile(path: str) -> Image.Image | None:
        image = small(path, 2 * side)
        return image and ImageOps.fit(image, (side, side))

    found = images.in_parallel(tile, paths, available_cores(), "Shrinking images of the map")
    for number, image in enumerate(found):
        if image:
            whole.paste(image, (number % columns * side, number // columns * side))
    return as_uri(whole), columns


def as_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
