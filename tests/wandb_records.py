"""What the client of Weights & Biases has kept of a run, read back from its `.wandb` files.

Such a file holds the client's own messages, framed as LevelDB frames its log: behind a header of 7
bytes, blocks of 32 kB with pieces of messages, each behind a checksum, a length and a kind (1:
whole; 2, 3, 4: first, middle and last piece).
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

from utilities.wandb_run import SETTINGS

HEADER, PIECE, BLOCK = 7, struct.Struct("<IHB"), 32768


class Part(NamedTuple):
    """One start of a run. history: what was logged, a dict a point; summary: at the end; finished:
    the exit code, None where the run did not finish; folder: of the client, below the run's."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    finished: int | None
    folder: Path

    def column(self, key: str) -> list:
        return [point.get(key) for point in self.history]


def restart(monkeypatch, **environment: str) -> None:
    """Starts the client anew, offline unless WANDB_MODE is given, with no other variables."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in ({"WANDB_MODE": "offline"} | SETTINGS | environment).items():
        monkeypatch.setenv(name, value)


def parts(folder: Path) -> list[Part]:
    """The starts of the runs in `folder`, first to last. Ends the client, which else may still hold
    some of it."""
    import wandb

    wandb.teardown()
    return sorted(map(read, Path(folder).rglob("*.wandb")), key=lambda part: (
        part.run.start_time.seconds, part.run.start_time.nanos))


def read(path: Path) -> Part:
    run, history, summary, finished = None, [], {}, None
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            history.append(add({}, record.history.item))
        elif kind == "summary":
            add(summary, record.summary.update)
        elif kind == "exit":
            finished = record.exit.exit_code
    return Part(run, add({}, run.config.update), history, summary, finished, path.parent)


def records(data: bytes):
    """The messages in `data`, the content of a `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, message = HEADER, b""
    while at + PIECE.size <= len(data):
        if (left := BLOCK - at % BLOCK) < PIECE.size:
            at += left      # too little for a piece
            continue
        _, length, kind = PIECE.unpack_from(data, at)
        at += PIECE.size
        message += data[at:at + length]
        at += length
        if kind in (1, 4):
            yield Record.FromString(message)
            message = b""


def add(values: dict[str, Any], items) -> dict[str, Any]:
    """`values` with the client's `items` in it, those with nested keys as nested dicts."""
    for item in items:
        *outer, last = item.nested_key or [item.key]
        inside = values
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[last] = json.loads(item.value_json)
    return values
