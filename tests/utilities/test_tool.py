"""The frame of tools: options, exit status, files that are never overwritten."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import ROOT
from utilities import options, tool
from utilities.errors import RunError, UserError
from utilities.options import FROM_1, Flag

TOOLS = ["evaluation.embed", "evaluation.ensemble", "evaluation.export", "evaluation.report",
         "evaluation.search", "evaluation.summarize"]
FLAGS = (Flag("folders", Path, [], "where to look", nargs="+"),
         Flag("--two", str, [], "two words", nargs=2), Flag("--k", int, 3, "a number", FROM_1),
         Flag("--fast", bool, False, "a switch"), Flag("--out", Path, None, "a file"))


def read(*argv, flags=FLAGS):
    return tool.read_arguments("room.tool", "Does something.", flags, argv)


@pytest.mark.parametrize("argv", [
    "a b --two x y --k 2 --fast", "--two x y a b --k 2 --fast", "--fast a --k=2 b --two x y",
    "--k 2 a b --fast --tw x y"])
def test_words_that_no_flag_takes_go_to_the_option_without_dashes(argv):
    arguments = read(*argv.split())
    assert arguments.folders == [Path("a"), Path("b")]
    assert (arguments.two, arguments.k, arguments.fast) == (["x", "y"], 2, True)
    assert arguments.given == ["fast", "folders", "k", "two"]


def test_without_such_an_option_words_stay_with_their_flag(capsys):
    with pytest.raises(SystemExit):
        read("--k", "1", "2", flags=FLAGS[1:])
    assert capsys.readouterr().err == (
        "room.tool: error: --k: '2' is too much; accepted: a whole number from 1 upwards\n")


@pytest.mark.parametrize(("argv", "told"), [
    (["--k", "0"], "--k: 0 given; accepted: a whole number from 1 upwards"),
    (["--two", "x"], "--two: expected 2 arguments; accepted: 2 of: a text"),
    (["--two", "", ""], "--two: '' given; accepted: 2 of: a text"),
    (["--out"], "--out: expected one argument; accepted: a path"),
    (["--folders", "a"], "--folders: unknown flag; accepted: the flags that --help lists")])
def test_a_mistake_is_one_line_and_status_2(argv, told, capsys):
    with pytest.raises(SystemExit) as end:
        read(*argv)
    assert end.value.code == 2 and capsys.readouterr().err == f"room.tool: error: {told}\n"


def test_a_required_option_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        read(flags=[Flag("--out", Path, None, "file to write", required=True)])
    assert capsys.readouterr().err == (
        "room.tool: error: --out: not given; accepted: file to write\n")


def test_a_path_may_begin_at_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read("--out=~/x").out == Path("/home/somebody/x")


@pytest.mark.parametrize("name", TOOLS)
def test_help_is_printed_without_torch(name):
    code = f"""
import runpy, sys
sys.argv = ["tool", "--help"]
try: runpy.run_module({name!r}, run_name="__main__")
except SystemExit as end: assert not end.code
assert not {{"torch", "numpy", "faiss", "scipy"}} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    module = importlib.import_module(name)
    for flag in module.FLAGS:
        word = flag.name if options.is_flag(flag.name) else flag.name.upper()
        assert word in done.stdout


@pytest.mark.parametrize("name", TOOLS)
def test_every_option_of_a_tool_is_read(name):
    text = "".join((ROOT / "evaluation" / file).read_text() for file in
                   ("tools.py", "best.py", f"{name.partition('.')[2]}.py"))
    module = importlib.import_module(name)
    assert all(f"arguments.{flag.dest}" in text for flag in module.FLAGS)


def test_run_gives_the_status_and_one_line(capsys):
    def fail(error):
        def work(_):
            raise error
        return work

    assert tool.run("t", lambda _: None, None) == 0
    assert tool.run("t", fail(UserError("wrong\nword")), None) == 2
    assert tool.run("t", fail(RunError("full")), None) == 1
    assert capsys.readouterr().err == "t: error: wrong word\nt: error: full\n"


def test_ctrl_c_ends_a_tool_without_a_traceback(capsys):
    from utilities import interrupt

    def work(_):
        os.kill(os.getpid(), signal.SIGINT)
        interrupt.check()

    assert tool.run("t", work, None) == 128 + signal.SIGINT
    assert capsys.readouterr().err == ""


def test_nothing_is_overwritten(tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (there, tmp_path / "link", tmp_path / "no folder" / "x", there / "x",
                 tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"^--out: "):
            tool.check_new(path, "--out")
    tool.check_new(tmp_path / "new", "--out")
    assert there.read_text() == "mine"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def half(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        tool.write(tmp_path / "x", half)
    assert list(tmp_path.iterdir()) == []
    tool.write(tmp_path / "x", lambda file: file.write(b"whole"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]
