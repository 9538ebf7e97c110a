"""Kills, signals, full disks: the last whole epoch stays, and a resumed run ends as if nothing had
happened."""

import errno
import os
import random
import re
import shlex
import shutil
import signal
import sys

import pytest
import torch

import diva_main
import parameters
from tests import forks, runs, trees

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ARGV = ("--diva_features", *runs.FOUR[:2], "--evaltypes", "discriminative", "--evaluation_metrics",
        "e_recall@1")
# Python that runs in the training's process: the signal `stop` reaches it, and its workers if it is
# for the `group`, when `moment` has been called for the nth time, or after that call.
HIT = """
import os, signal

def hit(owner, name, n, stop, group=False, after=False):
    original, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(None)
        if len(calls) != n:
            return original(*args, **kwargs)
        result = original(*args, **kwargs) if after else None
        (os.killpg if group else os.kill)(os.getpid(), stop)
        return result if after else original(*args, **kwargs)

    setattr(owner, name, counted)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with forks.server(tmp_path_factory.mktemp("output")) as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, four batches of eight an epoch."""
    folder = tmp_path_factory.mktemp("data")
    trees.class_folders(folder / "data" / "tiny", n_classes=8, n_images=8)
    return folder / "data"


@pytest.fixture(scope="module")
def whole(server, data):
    """whole(*argv) -> the folder of such a run that nothing stopped."""
    kept = {}

    def train(*argv):
        if argv not in kept:
            folder = data.parent / f"whole {len(kept)}"
            process = server.start(command(folder, data, *argv))
            assert process.wait() == 0, process.err
            kept[argv], = runs.folders(folder)
        return kept[argv]

    return train


def command(tmp_path, data, *argv):
    return runs.arguments(data.parent, "--save_path", tmp_path / "runs", *ARGV, *argv)


def whole_epochs(folder, *, torn: bool = False) -> int:
    """Epochs in the last checkpoint; every checkpoint, and every CSV file but for a last row that
    may be `torn`, must be whole."""
    for path in folder.glob("*.pth.tar"):
        torch.load(path, weights_only=True)
    for path in (folder / "CSV_Logs").glob("*.csv"):
        header, *lines = path.read_text().splitlines()[:-1 if torn else None] or [""]
        assert all(len(line.split(",")) == len(header.split(",")) for line in lines)
    return runs.last(folder)["epoch"] if (folder / "checkpoint_last.pth.tar").exists() else 0


MOMENTS = {  # name: which call, workers, the signal, whole epochs that stay (of two)
    "a step": ("diva_main.LossScaling", "backward", 6, 2, signal.SIGINT, 1),
    "embedding": ("evaluator", "embed", 1, 2, signal.SIGTERM, 0),
    "writing rows": ("logger.Logger", "_append", 5, 0, signal.SIGTERM, 1),
    "writing a checkpoint": ("torch", "save", 1, 2, signal.SIGINT, 1),
}
MORE_MOMENTS = {
    "loading the first batch": ("diva_main.Loader", "epoch", 1, 2, signal.SIGINT, 0),
    "filling the queue": ("selfsimilarity.Feature", "embed", 1, 0, signal.SIGTERM, 0),
    "a metric": ("evaluator", "score", 1, 0, signal.SIGINT, 1),
}


@pytest.mark.parametrize("moment", [
    *MOMENTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_MOMENTS)])
def test_a_signal_at_any_moment(server, data, whole, tmp_path, moment):
    owner, name, n, workers, signum, stay = (MOMENTS | MORE_MOMENTS)[moment]
    argv = ("--n_epochs", 2)
    process = server.start(command(tmp_path, data, *argv, "--kernels", workers), HIT + f"""
import torch
from criteria import selfsimilarity
from evaluation import evaluator
from utilities import logger
hit({owner}, {name!r}, {n}, {int(signum)}, group=True)
""")
    assert process.wait() == 128 + signum, process.out
    folder, = runs.folders(tmp_path)
    assert process.err == (f"\nStopped by {signum.name} after {stay} whole epochs. Go on with:\n"
                           f"    python diva_main.py --resume {folder}\n")
    assert process.is_alone()
    assert whole_epochs(folder) == stay
    process = server.start(["--resume", folder])
    assert process.wait() == 0, process.err
    assert runs.differences(whole(*argv), folder) == []


def test_the_printed_resume_command_works_in_a_shell(server, data, tmp_path):
    folder = tmp_path / "a b's $x"
    process = server.start(command(folder, data, "--n_epochs", 1), HIT + f"""
hit(diva_main.LossScaling, "backward", 2, {int(signal.SIGTERM)})
""")
    assert process.wait() == 128 + signal.SIGTERM
    *_, line = process.err.splitlines()
    python, program, *words = shlex.split(line)
    assert (python, program) == ("python", "diva_main.py")
    assert server.start(words).wait() == 0
    assert whole_epochs(*runs.folders(folder)) == 1


def test_a_folder_in_which_another_process_trains_is_refused(server, data, tmp_path, whole):
    """As when a cluster starts a job anew before the old one has ended."""
    argv = ("--n_epochs", 2)
    process = server.start(command(tmp_path, data, *argv), """
import time
original = diva_main.Training.evaluate_and_save
def waiting(self, epoch):
    original(self, epoch)
    if epoch == 0:
        print("It waits.", flush=True)
        while not (self.folder / "go on").exists():
            time.sleep(0.01)
diva_main.Training.evaluate_and_save = waiting
""")
    assert forks.until(lambda: "It waits." in process.out)
    folder, = runs.folders(tmp_path)
    other = server.start(["--resume", folder, "--kernels", 1])
    assert other.wait() == 2
    assert other.err == (f"diva_main.py: error: --resume: another process is training in "
                         f"{str(folder)!r}; accepted: the folder of a run that has ended\n")
    (folder / "go on").touch()
    assert process.wait() == 0, process.err
    assert runs.differences(whole(*argv), folder) == []
    assert server.start(["--resume", folder]).wait() == 0


def test_a_signal_when_all_is_done_changes_nothing(server, data, tmp_path):
    process = server.start(command(tmp_path, data, "--n_epochs", 1), HIT + f"""
hit(diva_main.run_folder, "summarise", 1, {int(signal.SIGTERM)})
""")
    assert process.wait() == 0 and process.err == ""


@pytest.mark.parametrize("hangs", ["diva_main.LossScaling.backward", "diva_main.Evaluator.finish"])
def test_ctrl_c_ends_a_hanging_run_and_a_second_one_does_at_once(server, data, tmp_path, hangs):
    """The first waits for the next batch, but not for ever; then what is due at the end is done."""
    patience, signals = (0.1, 1) if "backward" in hangs else (1000, 2)
    process = server.start(command(tmp_path, data, "--n_epochs", 1), f"""
import time
from utilities import interrupt
interrupt.PATIENCE = {patience}
receive = interrupt.Interrupts._receive

def received(*arguments):
    print("It comes.", flush=True)
    receive(*arguments)

def hang(*_):
    print("It hangs.", flush=True)
    time.sleep(1000)

interrupt.Interrupts._receive = received
{hangs} = hang
""")
    assert forks.until(lambda: "It hangs." in process.out)
    for number in range(1, signals + 1):
        os.kill(process.id, signal.SIGINT)
        assert forks.until(lambda number=number: process.out.count("It comes.") == number)
    assert process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in process.err and process.is_alone()


KILLS = {  # inside and around what an epoch writes: Python that kills the process there
    "half a checkpoint": """
def half(state, file, save=torch.save):
    calls.append(None)
    if len(calls) < {n}:
        return save(state, file)
    import io
    whole = io.BytesIO()
    save(state, whole)
    file.write(whole.getvalue()[:len(whole.getvalue()) // 2])
    file.flush()
    die()
torch.save = half
""",
    "before a rename": """
def before(*names, replace=os.replace):
    calls.append(None)
    die() if len(calls) >= {n} else replace(*names)
os.replace = before
""",
    "behind a rename": """
def behind(*names, replace=os.replace):
    calls.append(None)
    replace(*names)
    die() if len(calls) >= {n} else None
os.replace = behind
""",
    "half a row": """
from utilities.logger import Logger
def half(self, *row, append=Logger._append):
    calls.append(None)
    if len(calls) < {n}:
        return append(self, *row)
    with open(self.folder / "CSV_Logs" / "Data_Train_loss.csv", "a") as file:
        file.write("0.1")
    die()
Logger._append = half
""",
}
DIE = """
import os, signal, sys, torch
calls = []
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill(server, words, where: str, n: int) -> None:
    process = server.start(words, DIE + KILLS[where].format(n=n))
    assert process.wait() == -signal.SIGKILL, process.err


def reported(process) -> int:
    """How many epochs the process has trained through, counted from the run's beginning."""
    epochs = re.findall(r"^Epoch (\d+): loss", process.out, re.MULTILINE)
    return int(epochs[-1]) + 1 if epochs else 0


def test_a_run_that_is_killed_while_it_writes_ends_like_any_other(server, data, whole, tmp_path):
    argv = ("--n_epochs", 2)
    words = command(tmp_path, data, *argv)
    kill(server, words, "half a checkpoint", 2)
    folder, = runs.folders(tmp_path)
    assert whole_epochs(folder) == 0
    for where, n in (("behind a rename", 3), ("before a rename", 4), ("half a row", 3)):
        kill(server, ["--resume", folder], where, n)
        assert whole_epochs(folder, torn=True) == 0, where
    process = server.start(["--resume", folder])
    assert process.wait() == 0, process.err
    assert runs.differences(whole(*argv), folder) == []


def test_workers_end_when_their_training_is_killed(server, data, tmp_path):
    process = server.start(command(tmp_path, data, "--n_epochs", 100, "--kernels", 2))
    assert forks.until(lambda: "Epoch 0" in process.out)
    os.kill(process.id, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.is_alone()


@pytest.mark.slow
def test_twenty_kills_lose_one_epoch_each_at_most(server, data, whole, tmp_path):
    """Twelve at a random time, by this processor's pace up to about two epochs after a resumed run
    has started, eight inside or around a write; 30 epochs in all."""
    features = ("--diva_features", *runs.FOUR)
    argv = ("--n_epochs", 30, *features)
    cpu_seconds = []
    for n in (1, 11):
        process = server.start(command(tmp_path / f"pace {n}", data, "--n_epochs", n, *features))
        assert process.wait() == 0, process.err
        cpu_seconds.append(process.cpu_seconds)
    epoch = (cpu_seconds[1] - cpu_seconds[0]) / 10
    start = cpu_seconds[0] - epoch
    rng = random.Random(0)
    # A resumed run starts in about half the time: it fills no queue.
    kills = [("time", start / 2 + epoch * rng.uniform(0, 2)) for _ in range(12)]
    kills += [(where, n) for where in KILLS for n in (rng.randrange(1, 4), rng.randrange(4, 8))]
    rng.shuffle(kills)
    words, done, happened = command(tmp_path, data, *argv), 0, 0
    for where, n in kills:
        if where == "time":
            process = server.start(words)
            happened += process.kill_after(n)
        else:
            process = server.start(words, DIE + KILLS[where].format(n=n))
            happened += process.wait() == -signal.SIGKILL
        if runs.folders(tmp_path):
            folder, = runs.folders(tmp_path)
            if (folder / "options.json").exists():
                words = ["--resume", folder]
            else:
                folder.rmdir()      # killed between two lines: nothing was begun
                continue
            after = whole_epochs(folder, torn=True)
            assert after >= max(done, reported(process) - 1), (where, n)
            done = after
    assert happened == 20 and 5 < done < 30
    process = server.start(words)
    assert process.wait() == 0, process.err
    assert runs.differences(whole(*argv), folder) == []


FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES}


def break_disk(monkeypatch, fault: str, n: int) -> None:
    """From the nth file on that is opened for writing, none can be written."""
    opened, real = [], open

    def failing(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax"):
            opened.append(path)
            if len(opened) >= n and fault == "full":
                return real("/dev/full", mode, *args, **kwargs)
            if len(opened) >= n:
                raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", failing)


def fail(capsys, *argv) -> str:
    """The one line with which a run ends that cannot go on."""
    capsys.readouterr()
    assert diva_main.main(parameters.read_arguments([str(word) for word in argv])) == 1
    line, = capsys.readouterr().err.splitlines()
    return line


TWO_EPOCHS = ("--n_epochs", 2, "--diva_features", "discriminative")


@pytest.fixture(scope="module")
def epochs_before(data, tmp_path_factory):
    """Of each file and row that an unbroken run writes: how many epochs are whole before it."""
    before, epochs, real, rename = [], [], open, os.replace

    def writing(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax"):
            before.append(len(epochs))
        return real(path, mode, *args, **kwargs)

    def renaming(source, target):
        rename(source, target)
        if os.path.basename(target) == "checkpoint_last.pth.tar":
            epochs.append(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", writing)
        patch.setattr("os.replace", renaming)
        words = command(tmp_path_factory.mktemp("unbroken"), data, *TWO_EPOCHS)
        assert diva_main.main(parameters.read_arguments(words)) == 0
    return before


# 2 files of options; 9 rows, 2 checkpoints; 9 rows, 1 or 2 checkpoints; a summary.
@pytest.mark.parametrize(("fault", "n"), [
    ("full", 1), ("read-only", 5), ("full", 12), ("forbidden", 13), ("full", 20),
    *(pytest.param([*FAULTS][n % 3], n, marks=pytest.mark.slow) for n in range(2, 25))])
def test_a_disk_that_cannot_be_written(data, whole, epochs_before, tmp_path, capsys, monkeypatch,
                                       fault, n):
    argv = TWO_EPOCHS
    with monkeypatch.context() as patch:
        break_disk(patch, fault, n)
        line = fail(capsys, *command(tmp_path, data, *argv))
    folder, = runs.folders(tmp_path)
    assert re.fullmatch(rf"diva_main\.py: error: cannot write '{folder}/.*': "
                        rf"{os.strerror(FAULTS[fault])}.*", line), line
    assert whole_epochs(folder) == epochs_before[n - 1]
    if n <= 2:      # the options are not there yet
        return
    assert diva_main.main(parameters.read_arguments(["--resume", str(folder)])) == 0
    assert runs.differences(whole(*argv), folder) == []


def test_resuming_in_a_folder_that_cannot_be_written_says_so_and_changes_nothing(
        data, tmp_path, capsys, monkeypatch):
    assert diva_main.main(parameters.read_arguments(command(tmp_path, data))) == 0
    folder, = runs.folders(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    break_disk(monkeypatch, "read-only", 1)
    line = fail(capsys, "--resume", folder, "--n_epochs", 2)
    assert line.startswith("diva_main.py: error: cannot write ") and "Read-only" in line
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("plots", ["none", "end"])
def test_a_folder_that_is_deleted_during_the_run(data, tmp_path, capsys, monkeypatch, plots):
    original, steps = diva_main.LossScaling.step, []

    def step(*arguments):
        steps.append(None)
        if len(steps) == 6:
            shutil.rmtree(*runs.folders(tmp_path))
        return original(*arguments)

    monkeypatch.setattr(diva_main.LossScaling, "step", step)
    line = fail(capsys, *command(tmp_path, data, "--n_epochs", 3, "--plots", plots))
    assert re.fullmatch(r"diva_main\.py: error: cannot .* '.*': No such file or directory.*", line)
    assert not runs.folders(tmp_path)


def test_a_killed_worker_is_one_clear_line(server, data, tmp_path):
    """As the system does where memory runs out."""
    process = server.start(command(tmp_path, data, "--n_epochs", 1000, "--kernels", 2))
    assert forks.until(lambda: "Epoch 1" in process.out)
    worker = next(iter(forks.members(process.id) - {process.id}))
    os.kill(worker, signal.SIGKILL)
    assert process.wait() == 1
    assert process.err.count("\n") == 1, process.err
    assert process.err.startswith("diva_main.py: error: a process that loads images has ended")
    assert process.is_alone()
    folder, = runs.folders(tmp_path)
    assert whole_epochs(folder) > 0
