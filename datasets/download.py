"""Downloads that go on where they broke off."""

import http.client
import os
from pathlib import Path
from urllib import error, request

from tqdm import tqdm

from datasets.archives import written
from utilities import interrupt
from utilities.errors import RunError

TIMEOUT = 30        # seconds without an answer
CHUNK = 2**20


def fetch(url: str, path: Path) -> None:
    """Downloads `url` to `path`, by way of `<path>.part`, which a later call goes on with.

    A connection that breaks is made again as long as each brings something. RunError, which says
    why, where none does, and where the disk does not take it.
    """
    part = path.with_name(f"{path.name}.part")
    while True:
        before, why = size(part), "the connection broke"
        try:
            if receive(url, part):
                break
        except (OSError, http.client.HTTPException, ValueError) as failure:
            why = " ".join(str(getattr(failure, "reason", None) or failure).split())
        if size(part) <= before:
            raise RunError(f"cannot download {url} ({why or 'no answer'})")
    with written(path):
        os.replace(part, path)


def receive(url: str, part: Path) -> bool:
    """Appends what `part` lacks of `url`, over one connection; returns whether it is whole now. A
    server that knows no ranges sends all of it again."""
    have = size(part)
    ask = request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = request.urlopen(ask, timeout=TIMEOUT)
    except error.HTTPError as refusal:
        if refusal.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if refusal.headers.get("Content-Range") == f"bytes */{have}":
                return True
            part.unlink()       # of another file than the server has now
            return receive(url, part)
        raise
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        with written(part), open(part, "ab" if have else "wb"):
            pass        # begins anew where the server does
        with tqdm(desc=f"Downloading {part.stem}", initial=have, total=whole, unit="B",
                  unit_scale=True, leave=False, disable=None) as bar:
            while chunk := answer.read(CHUNK):
                interrupt.check()
                with written(part), open(part, "ab") as file:
                    file.write(chunk)
                bar.update(len(chunk))
    return whole is None or size(part) == whole


def size(path: Path) -> int:
    """Bytes of the file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
