"""Output that never ends a program; Ctrl-C before anything has begun."""

import os
import signal
import subprocess
import sys

import pytest

from tests.test_layers import ROOT
from utilities import terminal
from utilities.errors import RunError


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def waiting() -> int:
    """A pipe that is full, nobody reads and no one may wait for."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, bytes(4096))
        except BlockingIOError:
            return writer


@pytest.mark.parametrize("where", [full, without_reader, waiting])
def test_text_that_cannot_be_written_is_dropped(where):
    stream = terminal.protected(where(), None)
    for _ in range(3):
        print("x" * 100_000, file=stream, flush=True)
    stream.close()


def test_a_stream_goes_on_where_there_is_room_again(tmp_path):
    handle = full()
    stream = terminal.protected(handle, None)
    print("lost", file=stream, flush=True)
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), handle)
    print("kept", file=stream, flush=True)
    assert (tmp_path / "log").read_text() == "kept\n"


@pytest.mark.parametrize(("encoding", "bytes_"), [
    ("ascii", rb"caf\xe9 \udce9"), ("utf-8", rb"caf" + "é".encode() + rb" \udce9")])
def test_what_the_encoding_lacks_is_escaped(tmp_path, encoding, bytes_):
    with open(tmp_path / "log", "w", encoding=encoding) as file:
        print("café \udce9", file=terminal.protected(file.fileno(), file), flush=True)
    assert (tmp_path / "log").read_bytes() == bytes_ + b"\n"


@pytest.mark.parametrize(("where", "refused"), [(full, True), (without_reader, False)])
def test_a_command_whose_result_is_its_output_fails_where_that_is_lost(monkeypatch, where, refused):
    """A reader that has gone has asked for no more."""
    monkeypatch.setattr(sys, "stdout", terminal.protected(where(), None))
    print("the result")
    if refused:
        with pytest.raises(RunError, match=r"^cannot write to stdout: No space left on device$"):
            terminal.check_output()
    else:
        terminal.check_output()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("path", ["a b's $x", "café", "caf\udce9 'n\\1' \"\n", "-\udce9"])
def test_a_word_for_a_shell_stands_for_the_same_bytes(monkeypatch, tmp_path, encoding, path):
    with open(tmp_path / "log", "w", encoding=encoding) as file:
        monkeypatch.setattr(sys, "stderr", file)
        word = terminal.shell_word(path)
    word.encode(encoding)
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(path)


def shell(words: str, tmp_path, program: str = "") -> subprocess.CompletedProcess:
    """Runs Python on `program` after `terminal.prepare()`, with `words` behind its command."""
    code = f"from utilities import terminal\nterminal.prepare()\n{program}"
    return subprocess.run(["bash", "-c", f'"$0" -c "$1" {words}', sys.executable, code], cwd=ROOT,
                          env=os.environ | {"OUT": str(tmp_path / "out")}, capture_output=True,
                          text=True, check=False)


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    """Or what a library prints would be written into it."""
    done = shell("<&- >&- 2>&-", tmp_path, "import os, sys\n"
                 "print('text'); print('text', file=sys.stderr)\n"
                 "file = open(os.environ['OUT'], 'w'); file.write(str(file.fileno()))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert int((tmp_path / "out").read_text()) > 2


@pytest.mark.parametrize("words", [">/dev/full", "2>/dev/full", ">&-", "2>&-", "| head -1"])
def test_the_end_of_a_program_is_quiet_too(tmp_path, words):
    done = shell(f"{words}; exit ${{PIPESTATUS[0]}}", tmp_path, "import sys\nfor _ in range(9999):"
                 "\n    print('text'); print('text', file=sys.stderr)\nsys.exit(7)")
    assert done.returncode == 7 and not set(done.stderr.split()) - {"text"}


def test_ctrl_c_while_torch_is_imported_ends_it_without_a_word(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import time\nprint('It is imported.', flush=True)\ntime.sleep(60)\n")
    # Where the tests run in the background of a shell, children begin by ignoring SIGINT.
    program = subprocess.Popen([sys.executable, ROOT / "diva_main.py"], stdout=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(tmp_path)},
                               stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert program.stdout.readline() == "It is imported.\n"
    program.send_signal(signal.SIGINT)
    assert program.communicate() == ("", "") and program.returncode == -signal.SIGINT
