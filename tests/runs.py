"""Whole runs on tiny images, in this process."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import torch

import diva_main
import parameters
from tests import trees

FOUR = ("discriminative", "selfsimilarity", "shared", "intra")
# A network of 0.3 million weights on 32-pixel crops: a step takes milliseconds.
TINY = ("--arch", "shufflenet_v2_x0_5_normalize", "--not_pretrained", "--crop_size", 32, "--resize",
        36, "--bs", 8, "--embed_dim", 16, "--kernels", 0, "--n_epochs", 1, "--device", "cpu",
        "--diva_moco_n_key_batches", 2, "--diva_dc_ncluster", 4, "--data_batchmatch_bigbs", 16,
        "--lr", 1e-3, "--plots", "none")


def arguments(tmp_path: Path, *argv) -> list[str]:
    """A command line for a tiny run below tmp_path; later arguments win over earlier ones."""
    folder = tmp_path / "data" / "tiny"
    if not folder.exists():
        trees.class_folders(folder, n_classes=8, n_images=4)
    return [str(word) for word in ("--dataset", "tiny", "--source_path", tmp_path / "data",
                                   "--save_path", tmp_path / "runs", *TINY, *argv)]


def train(tmp_path: Path, *argv) -> Path:
    """Trains with `arguments` and returns the run's folder; the run must succeed."""
    before = folders(tmp_path)
    assert diva_main.main(parameters.read_arguments(arguments(tmp_path, *argv))) == 0
    new, = folders(tmp_path) - before
    return new


def resume(folder: Path, *argv) -> None:
    words = ["--resume", str(folder), *map(str, argv)]
    assert diva_main.main(parameters.read_arguments(words)) == 0


def folders(tmp_path: Path) -> set[Path]:
    return set((tmp_path / "runs").glob("*/*"))


def assembled(tmp_path: Path, *argv) -> diva_main.Training:
    """What such a run is made of, before anything is written."""
    return diva_main.Training(parameters.read_arguments(arguments(tmp_path, *argv)))


def rows(folder: Path, name: str) -> list[dict[str, float]]:
    """The rows of `CSV_Logs/Data_<name>.csv`."""
    with open(folder / "CSV_Logs" / f"Data_{name}.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def last(folder: Path) -> dict:
    """What `checkpoint_last.pth.tar` holds."""
    return torch.load(folder / "checkpoint_last.pth.tar", map_location="cpu", weights_only=True)


# What may differ between equal runs: clocks, and where they lie.
CLOCKS = ("Train_time", "Train_images per second")


def contents(folder: Path) -> dict[str, object]:
    """All that a run leaves which does not depend on clocks and paths: {name: value}, with every
    tensor and number of its checkpoints under a name of its own."""
    values: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.endswith(".pth.tar"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            state.pop("seconds", None)
            state.pop("options", None)
            if "logger" in state:
                state["logger"]["series"] = [
                    entry for entry in state["logger"]["series"]
                    if f"{entry['split']}_{entry['group']}" not in CLOCKS]
                state["logger"].pop("wandb_id")
            values.update(leaves(state, name))
        elif path.name == "training_summary.txt":
            values[name] = path.read_text().split("\n", 1)[1]
        elif path.suffix in (".csv", ".svg", ".png") and not path.stem.endswith(CLOCKS):
            values[name] = path.read_bytes()
    assert "CSV_Logs/Data_Train_loss.csv" in values
    return values


def leaves(value, name: str) -> Iterator[tuple[str, object]]:
    """(path, leaf) of everything inside nested dicts and lists."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        yield f"len({name})", len(value)
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{name}[{i}]")
    else:
        yield name, value


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not bit for bit the same in the two runs' folders."""
    first, second = contents(one), contents(other)
    return [name for name in first | second
            if name not in first or name not in second or not same(first[name], second[name])]


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return (one.dtype == other.dtype and one.shape == other.shape
                and one.numpy().tobytes() == other.numpy().tobytes())
    return type(one) is type(other) and (one == other or (one != one and other != other))
