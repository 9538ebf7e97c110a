"""CARS196 (Krause et al. 2013): `images/<class>/<files>`, classes in plain string order.

Download: ai.stanford.edu/~jkrause/cars.
"""

from pathlib import Path

from datasets import Samples
from datasets.class_folders import halves


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing"}: (path, class) of each image."""
    return halves(folder, sorted)
