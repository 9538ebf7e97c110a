"""Whole runs whose output cannot be written, or whose paths are not text."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests import forks, runs, trees
from tests.test_layers import ROOT

ARGV = ("--evaluation_metrics", "e_recall@1")
LOST = {  # Python that takes stdout from a process
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    "without a reader": "reader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)",
    "closed": "os.close(1)\nsys.stdout = None"}
BYTES = "caf\udce9"     # the byte E9, which is no UTF-8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with forks.server(tmp_path_factory.mktemp("output")) as running:
        yield running


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The folder of a run of two epochs whose output could be written."""
    folder = tmp_path_factory.mktemp("whole")
    assert server.start(runs.arguments(folder, "--n_epochs", 2, *ARGV)).wait() == 0
    return next(iter(runs.folders(folder)))


@pytest.mark.parametrize("lost", LOST)
def test_a_run_is_not_lost_for_its_output(server, whole, tmp_path, lost):
    process = server.start(runs.arguments(tmp_path, "--n_epochs", 2, *ARGV), LOST[lost])
    assert (process.wait(), process.out, process.err) == (0, "", "")
    folder, = runs.folders(tmp_path)
    assert runs.differences(whole, folder) == []


@pytest.mark.parametrize(("lost", "status", "told"), [
    ("full", 1, "diva_main.py: error: cannot write to stdout: No space left on device\n"),
    ("without a reader", 0, "")])
def test_a_command_that_only_prints_fails_where_its_output_is_lost(server, whole, tmp_path, lost,
                                                                   status, told):
    """Unless nobody reads it any more."""
    words = runs.arguments(tmp_path)
    for further in (["--check_data"], ["--evaluate_only", "--checkpoint",
                                       whole / "checkpoint_last.pth.tar"]):
        process = server.start([*words, *further], LOST[lost])
        assert (process.wait(), process.err) == (status, told)


def test_an_epoch_is_saved_before_its_table_is_printed(server, tmp_path):
    process = server.start(runs.arguments(tmp_path, *ARGV), f"""
        import signal
        diva_main.Evaluator.report = lambda *_: os.kill(os.getpid(), {int(signal.SIGKILL)})""")
    assert process.wait() == -signal.SIGKILL
    folder, = runs.folders(tmp_path)
    assert runs.last(folder)["epoch"] == 1
    assert (folder / "checkpoint_discriminative_e_recall@1.pth.tar").exists()


def test_paths_that_are_no_utf_8_pass_unchanged(server, tmp_path):
    """From the command line to the files, and back by the printed command."""
    images = trees.class_folders(tmp_path / BYTES / "tiny", n_classes=8, n_images=4) / "images"
    for folder in sorted(images.glob("[0-9]*")):
        (folder / "image_03.jpg").rename(folder / f"image_03{BYTES}.jpg")
        folder.rename(images / f"{folder.name}{BYTES}")
    ascii_ = "sys.stdout.reconfigure(encoding='ascii')\nsys.stderr.reconfigure(encoding='ascii')\n"
    argv = runs.arguments(tmp_path, "--n_epochs", 2, *ARGV, "--source_path", tmp_path / BYTES,
                          "--save_path", tmp_path / f"ä{BYTES}", "--savename", BYTES,
                          "--kernels", 1, "--plots", "end")
    process = server.start(argv, ascii_ + f"""
original = diva_main.Training.evaluate_and_save
def stopped(self, epoch):
    original(self, epoch)
    os.kill(os.getpid(), {int(signal.SIGINT)})
diva_main.Training.evaluate_and_save = stopped
""")
    assert process.wait() == 128 + signal.SIGINT, process.err
    folder = tmp_path / f"ä{BYTES}" / "tiny" / BYTES
    assert json.loads((folder / "options.json").read_text())["source_path"] == (
        f"{tmp_path}/{BYTES}")
    assert b"\nsavename: caf\xe9\n" in (folder / "Parameter_Info.txt").read_bytes()
    assert process.out.startswith(
        f"Run folder: {tmp_path}/" + r"\xe4caf\udce9/tiny/caf\udce9" + "\n")
    *_, command = process.err.splitlines()
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True,
                           check=True).stdout.split(b"\0")
    assert words[:-1] == [b"python", b"diva_main.py", b"--resume", os.fsencode(folder)]
    process = server.start(["--resume", folder])
    assert process.wait() == 0, process.err
    assert len(runs.rows(folder, "Train_loss")) == 2


def test_a_run_goes_on_under_a_locale_that_takes_its_paths_for_ascii(server, tmp_path):
    """As a job does whose environment is not that of the shell that began the run."""
    argv = runs.arguments(tmp_path, *ARGV, "--save_path", tmp_path / "größer")
    assert server.start(argv).wait() == 0
    folder = tmp_path / "größer" / "tiny" / "Sample_Run_s1"
    done = subprocess.run(
        [sys.executable, "diva_main.py", "--resume", folder, "--n_epochs", "2", "--save_path",
         tmp_path / "größer"], cwd=ROOT, capture_output=True, check=False,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.search(rb"Run folder: .*gr\\udcc3\\udcb6\\udcc3\\udc9fer", done.stdout)
    assert f"save_path: {tmp_path}/größer\n" in (folder / "Parameter_Info.txt").read_text("utf-8")
    assert len(runs.rows(folder, "Train_loss")) == 2
