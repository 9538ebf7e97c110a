"""The rooms import one way, and the command line is read without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["architectures", "batchminer", "criteria", "datasampler", "datasets", "evaluation",
         "metrics", "utilities"]
# What a room may import beside the standard library, installed packages and itself. A registry's
# `__init__` (name tables, grammars, tuples) is lower than its modules.
REGISTRIES = {"architectures", "batchminer", "criteria", "datasampler", "datasets", "metrics"}
ABOVE_COMPONENTS = REGISTRIES | {"utilities", "datasets.loader", "datasets.images",
                                   "datasets.pictures", "datasets.workers"}
# The one tool that compares a run's options with the defaults of all flags.
KNOWS_FLAGS = ROOT / "evaluation" / "report.py"
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_modules(path):
    """Full names of what `path` imports from this repository, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / (inner.replace(".", "/") + ".py")).exists()
                names.add(inner if is_module else node.module)
    return {name for name in names if name.split(".")[0] in {*ROOMS, "parameters", "diva_main"}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    orchestrates = room == "evaluation" or path.name == "features.py"
    for name in imported_modules(path):
        other = name.split(".")[0]
        if name == "parameters" and path == KNOWS_FLAGS:
            continue
        assert other not in {"parameters", "diva_main"}, f"{path} imports {name}"
        if other == room or (other == "utilities"):
            continue
        assert room != "utilities", f"utilities imports {name}"
        allowed = ABOVE_COMPONENTS if orchestrates else REGISTRIES
        assert name in allowed, f"{path} imports {name}"


def test_arguments_are_read_without_torch_numpy_or_matplotlib():
    code = ("import sys, parameters; parameters.read_arguments(['--dataset', 'glyphs']);"
            "heavy = {'torch', 'numpy', 'faiss', 'matplotlib', 'wandb', 'PIL'} & set(sys.modules);"
            "sys.exit(str(heavy) if heavy else 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_epoch_loop_stays_short():
    assert len((ROOT / "diva_main.py").read_text().splitlines()) < 250
