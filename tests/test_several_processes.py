"""torchrun: several processes train the run that one trains."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

import criteria
from tests import forks, runs, trees
from tests.processes import STEPS, Launched
from utilities import distributed, environment

BASE = ("--optim", "sgd", "--lr", 1e-3, "--loss_margin_beta_lr", 0.1, "--log_every", 1)
FROZEN = ("--arch", "shufflenet_v2_x0_5_frozen_normalize")
# Statistics of eight numbers, as those of images of 32 pixels, magnify rounding.
LARGER = ("--crop_size", 64, "--resize", 64)
FOUR = ("--diva_features", *runs.FOUR)
SETTINGS = {
    "four features": (*FROZEN, *FOUR),
    "trained BatchNorm": (*FOUR, *LARGER),
    "BatchNorm of timm, with its activation": ("--arch", "timm:test_efficientnet_normalize", *FOUR,
                                               *LARGER),
    "deep clustering": (*FROZEN, "--diva_features", "discriminative", "dc"),
    "rotation": (*FROZEN, "--diva_features", "discriminative", "imrot"),
    "rotation with trained BatchNorm": ("--diva_features", "discriminative", "imrot", *LARGER),
    "invariantspread": (*FROZEN, "--diva_features", "discriminative", "invariantspread",
                        "selfsimilarity"),
    "storage sampler": (*FROZEN, "--data_sampler", "distmoment_batchmatch", "--data_mb_mom", 0.9,
                        "--data_batchmatch_ncomps", 5),
    "criterion chooses": (*FROZEN, "--data_sampler", "criterion_batchmatch",
                          "--data_batchmatch_ncomps", 3),
    "guest with parameters": (*FROZEN, "--loss", "pml:ProxyAnchorLoss"),
    "proxies": (*FROZEN, "--loss", "softtriplet"),
    "learned temperature": (*FROZEN, *FOUR, "--diva_moco_trainable_temp", "--diva_moco_temp_lr",
                            0.01, "--diva_moco_temperature", 0.1),
    "chunks": (*FROZEN, *FOUR, "--grad_cache_chunk", 3),
    "all at once": (*FROZEN, "--diva_features", *criteria.FEATURES, "--data_sampler",
                    "firstmoment_batchmatch", "--data_batchmatch_ncomps", 3, "--grad_cache_chunk",
                    3),
    "recipe": (*FROZEN, *FOUR, "--warmup_epochs", 3, "--clip_grad", 0.05, "--ema", 0.9,
               "--freeze_backbone", 2),
    "bf16": (*FROZEN, *FOUR, "--precision", "bf16"),
}
# Relative differences of a step; gradients of the network's weights are summed in bf16, too.
BOUNDS = {"trained BatchNorm": 1e-4, "BatchNorm of timm, with its activation": 1e-4,
          "rotation with trained BatchNorm": 1e-4, "bf16": 2e-3}
FAST = ("four features", "trained BatchNorm", "BatchNorm of timm, with its activation",
        "all at once")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with forks.server(tmp_path_factory.mktemp("processes")) as running:
        yield running


def compared(server, tmp_path, argv, size: int, n_states: int, bound: float) -> None:
    """One step from each of `n_states` states of a run: `size` processes against one."""
    batch = 8 if size == 2 else 24
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=12, n_images=batch // 4)
    words = runs.arguments(tmp_path, *BASE, *argv, "--n_epochs", n_states, "--bs", batch)
    files = {"states": str(tmp_path / "states"), "results": str(tmp_path / "one")}
    alone = server.start(words, "import sys\n" + STEPS.format(**files))
    assert alone.wait() == 0, alone.err
    files["results"] = str(tmp_path / "of")
    launched = Launched(server, size, words, STEPS.format(**files))
    assert launched.wait() == [0] * size, launched.err
    wanted = torch.load(tmp_path / "one0", weights_only=True)
    found = [torch.load(tmp_path / f"of{rank}", weights_only=True) for rank in range(size)]
    for n, steps in enumerate(zip(wanted, *found, strict=True)):
        for part in steps[0]:
            one, *others = (dict(runs.leaves(step[part], f"state {n}: {part}")) for step in steps)
            tensors = {name for name, value in one.items() if isinstance(value, torch.Tensor)}
            # Of some gradients nothing but rounding is left, beside the largest ones.
            noise = 3e-6 * max((size_of(one[name]) for name in tensors), default=0)
            for other in others:
                assert {name: one[name] for name in one.keys() - tensors} == {
                    name: other[name] for name in other.keys() - tensors}
                for name in tensors:
                    assert runs.same(other[name], others[0][name]), name
                    away = size_of(other[name].double() - one[name].double())
                    # Sums that cancel magnify rounding: gradients of one process differ so, too,
                    # when another processor computes them.
                    of_gradient = part == "gradients" or "Grad" in name
                    allowed = (10 if of_gradient else 1) * bound * size_of(one[name])
                    allowed += 1e-8 + noise * (part != "terms")
                    assert away <= allowed, (name, away, one[name])


def size_of(tensor: torch.Tensor) -> float:
    return float(tensor.double().norm())


@pytest.mark.parametrize("name", FAST)
def test_two_processes_take_the_step_of_one(server, tmp_path, name):
    compared(server, tmp_path, SETTINGS[name], 2, 3, BOUNDS.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_take_the_step_of_one_at_20_states(server, tmp_path, name):
    compared(server, tmp_path, SETTINGS[name], 2, 20, BOUNDS.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_more_processes_take_the_step_of_one(server, tmp_path, size):
    compared(server, tmp_path, SETTINGS["four features"], size, 20, 1e-5)


@pytest.mark.slow
def test_a_run_differs_as_between_two_processors(server, tmp_path, monkeypatch):
    """20 steps on two processes, on one, and on one whose torch rounds otherwise."""
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=8, n_images=8)
    here = os.environ.get("ATEN_CPU_CAPABILITY")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2" if here == "default" else "default")
    words = runs.arguments(tmp_path, *FROZEN, *FOUR, "--optim", "sgd", "--lr", 1e-5,
                           "--n_epochs", 5)

    def weights(where, size):
        before = runs.folders(tmp_path)
        launched = Launched(where, size, words)
        assert launched.wait() == [0] * size, launched.err
        made, = runs.folders(tmp_path) - before
        state = runs.last(made)["state_dict"]
        return torch.cat([value.double().flatten() for value in state.values()])

    with forks.server(tmp_path / "other") as other:
        one, two, elsewhere = weights(server, 1), weights(server, 2), weights(other, 1)
    assert 0 < (two - one).norm() <= 2 * (elsewhere - one).norm()


def test_trained_batch_norm_has_the_statistics_of_the_whole_batch(server, tmp_path):
    """In float64, so that only a wrong formula can differ."""
    torch.manual_seed(0)
    norm, x = torch.nn.BatchNorm2d(3, momentum=None).double(), torch.randn(8, 3, 5, 4).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    weights = torch.randn_like(x)
    torch.save((norm, x, weights), tmp_path / "given")
    launched = Launched(server, 2, [], f"""
import copy, torch
from architectures.batch_norm import share_statistics
from utilities import distributed

norm, x, weights = torch.load({str(tmp_path / "given")!r}, weights_only=False)
with distributed.join() as processes:
    processes.connect(torch.device("cpu"))
    network = torch.nn.Sequential(norm)
    share_statistics(network, processes)
    network = copy.deepcopy(network)        # as the key network is
    rows = processes.rows(len(x))
    for _ in range(2):
        share = x[rows].requires_grad_()
        whole = distributed._Gather.apply(network(share).flatten(1), processes)
        (whole.view_as(x).cos() * weights).sum().backward()
    processes.sum_gradients(list(network.parameters()), [])
    torch.save([share.grad, rows, norm.weight.grad, network.state_dict(),
                [p.grad for p in network.parameters()]],
               {str(tmp_path / "of")!r} + str(processes.rank))
sys.exit()
""".replace("import copy", "import copy, sys"))
    assert launched.wait() == [0, 0], launched.err
    for _ in range(2):
        input_ = x.clone().requires_grad_()
        (norm(input_).cos() * weights).sum().backward()
    for rank in range(2):
        gradient, rows, _, state, gradients = torch.load(tmp_path / f"of{rank}", weights_only=True)
        torch.testing.assert_close(gradient, input_.grad[rows])
        torch.testing.assert_close(gradients, [p.grad for p in norm.parameters()])
        torch.testing.assert_close(
            {name.removeprefix("0."): value for name, value in state.items()},
            dict(norm.state_dict()))


class Run:
    """A run's command line for one process and for several."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        trees.class_folders(folder / "data" / "tiny", n_classes=8, n_images=8)

    def words(self, *argv):
        return runs.arguments(self.folder, *FROZEN, "--n_epochs", 2, *BASE, *argv)

    def launch(self, *argv, size=2, patch=""):
        return Launched(self.server, size, self.words(*argv), textwrap.dedent(patch))

    def trained(self, *argv, size=2):
        launched = self.launch(*argv, size=size)
        assert launched.wait() == [0] * size, launched.err
        return launched

    @property
    def made(self):
        only, = runs.folders(self.folder)
        return only


@pytest.fixture
def run(server, tmp_path):
    return Run(server, tmp_path)


def test_one_voice_and_one_folder(run):
    launched = run.trained("--plots", "end", "--bs", 12, size=3)
    first, *others = launched.members
    assert "3 processes" in first.out and "Training took" in first.out
    assert "Epoch 1: loss" in first.out and first.out.count("Test, epoch 1") == 1
    assert [other.out for other in others] == ["", ""] and launched.err == ""
    assert {path.name for path in run.made.iterdir()} >= {
        "checkpoint_last.pth.tar", "training_summary.txt", "sample_recoveries.png"}
    assert "processes: 3" in (run.made / "Parameter_Info.txt").read_text()


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)], ids=str)
def test_a_run_goes_on_with_another_number_of_processes(run, tmp_path, sizes):
    run.trained("--lr", 1e-5, size=1)
    whole, = runs.folders(tmp_path)
    run.trained("--lr", 1e-5, "--n_epochs", 1, size=sizes[0])
    part, = runs.folders(tmp_path) - {whole}
    launched = Launched(run.server, sizes[1], ["--resume", part, "--n_epochs", 2])
    assert launched.wait() == [0] * sizes[1], launched.err
    for name in ("Train_loss", "Model Grad_L2", "Test_discriminative_e_recall"):
        for row, wanted in zip(runs.rows(part, name), runs.rows(whole, name), strict=True):
            assert row == pytest.approx(wanted, rel=1e-3), name


def test_evaluation_is_that_of_one_process(run, tmp_path):
    """Of 32 test images, three processes embed 11, 11 and 10."""
    run.trained(size=1)
    words = ["--evaluate_only", "--checkpoint", run.made / "checkpoint_last.pth.tar",
             "--dataset", "tiny", "--source_path", tmp_path / "data", "--kernels", 0]
    alone, several = Launched(run.server, 1, words), Launched(run.server, 3, words)
    assert alone.wait() + several.wait() == [0] * 4, several.err
    table = alone.members[0].out.splitlines()[-2:]
    assert table[0].startswith("Test") and several.members[0].out.splitlines()[-2:] == table
    assert [member.out for member in several.members[1:]] == ["", ""] and several.err == ""


# What goes wrong in step 6, the second of epoch 1: code, the exit statuses of the process at fault
# and of the other one, and what one of them says.
FAULTS = {
    "killed": ("at(6, lambda: os.kill(os.getpid(), signal.SIGKILL))", -9, 1,
               "another process of this run has ended without saying why"),
    "stopped": ("at(6, lambda: os.kill(os.getpid(), signal.SIGTERM))", 143, 143,
                "Stopped by SIGTERM after 1 whole epochs"),
    "out of memory": ("at(6, lambda: fail(torch.OutOfMemoryError('CUDA out of memory. Tried.')))",
                      1, 1, "diva_main.py: error: CUDA out of memory. Tried.; a smaller --bs"),
    "mistake of the program": ("at(6, lambda: fail(ZeroDivisionError('here')))", 1, 1,
                               "ZeroDivisionError: here"),
    "drift": ("at(6, drift)", 1, 1,
              "the processes of this run are no longer alike: parameters differ"),
}
AT = """
import errno, signal, torch
from utilities import checkpoint
from utilities.loss_scaling import LossScaling

def at(n, act):
    # Before the optimiser's n-th step.
    original, calls = LossScaling.step, []

    def counted(self, optimiser):
        calls.append(None)
        if len(calls) == n:
            global parameters_here
            parameters_here = optimiser.param_groups[0]["params"]
            act()
        return original(self, optimiser)

    LossScaling.step = counted

def fail(error):
    raise error

def drift():
    parameters_here[0].data.view(-1)[0] += 1e-3

def full():
    def sync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = sync
"""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_ends_one_process_ends_all_with_one_line(run, fault, rank):
    act, of_fault, of_other, says = FAULTS[fault]
    started = time.monotonic()
    launched = run.launch("--n_epochs", 3, "--save_every", 100,
                          patch=AT + f"if os.environ['RANK'] == '{rank}': {act}\n")
    assert launched.wait() == [of_fault if process == rank else of_other for process in range(2)]
    assert time.monotonic() - started < 60
    assert len([line for line in launched.err.splitlines() if says in line]) == 1, launched.err
    if "mistake" not in fault:
        assert "Traceback" not in launched.err and launched.err.count("\n") <= 3
    if (fault, rank) != ("killed", 0):      # which holds the last epoch in memory
        assert runs.last(run.made)["epoch"] == 1


def test_processes_that_torchrun_starts_anew_hear_nothing_of_those_before(run, tmp_path):
    launched = run.launch(patch=AT + f"if os.environ['RANK'] == '1': {FAULTS['killed'][0]}")
    assert launched.wait() == [1, -9]
    first = run.made
    again = Launched(run.server, 2, run.words(),
                     "os.environ['TORCHELASTIC_RESTART_COUNT'] = '1'\n", launched.store)
    assert again.wait() == [0, 0], again.err
    second, = runs.folders(tmp_path) - {first}
    assert runs.last(second)["epoch"] == 2 and runs.last(first)["epoch"] == 1


@pytest.mark.parametrize("patch, says", [
    ("del os.environ['MASTER_PORT']", "MASTER_PORT expected, but not set); accepted: "),
    ("os.environ['MASTER_PORT'] = '99999'", "99999.); accepted: ")], ids=str)
def test_an_environment_that_is_not_of_torchrun_is_refused_in_one_line(run, patch, says):
    launched = run.launch(size=1, patch=patch)
    assert launched.wait() == [2]
    line, = launched.err.splitlines()
    assert line.startswith("diva_main.py: error: torchrun: ") and says in line


def test_memory_that_a_collective_lacks_is_not_blamed_on_another_process():
    with pytest.raises(torch.OutOfMemoryError), distributed.explain_lost():
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_copies_of_a_single_number_are_compared(server, tmp_path):
    launched = Launched(server, 2, [], """
import sys, torch
from utilities import distributed
from utilities.errors import RunError

with distributed.join() as processes:
    processes.connect(torch.device("cpu"))
    module = torch.nn.Module()
    module.temperature = torch.nn.Parameter(torch.tensor(0.1))
    module.oldest = torch.nn.Buffer(torch.tensor(8))
    for name, step in (("temperature", 1e-6), ("oldest", 1)):
        processes.compare([module], torch.arange(4), {"loss": torch.ones(())})
        value = getattr(module, name).data
        value += step * processes.rank
        try:
            processes.compare([module], torch.arange(4), {"loss": torch.ones(())})
            sys.exit(3)
        except RunError:
            value -= step * processes.rank
            processes.from_first(module)
sys.exit()
""")
    assert launched.wait() == [0, 0], launched.err


def test_all_begin_with_the_weights_of_the_first_and_hear_of_dropout(server, tmp_path):
    """Copies that draw other numbers at first, as on another processor."""
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=8, n_images=8)
    words = runs.arguments(tmp_path, "--arch", "efficientnet_b0_normalize", *FOUR)
    launched = Launched(server, 2, words, """
import sys, torch
import diva_main, parameters
from utilities import distributed, setup

setup.seed = lambda opt: torch.manual_seed(int(os.environ["RANK"]))
with distributed.join() as processes:
    training = diva_main.Training(parameters.read_arguments(), processes)
    processes.compare([training.network, training.objective], torch.arange(4),
                      {"loss": torch.ones(())})
sys.exit()
""")
    assert launched.wait() == [0, 0], launched.err
    assert "StochasticDepth: drawn on each process" in launched.members[0].out


APART = """
import sys, time, torch
from utilities import distributed
from utilities.errors import RunError

rank = int(os.environ["RANK"])
with distributed.join() as processes:
    processes.connect(torch.device("cpu"))
    {body}
with open("{folder}/" + str(rank), "w") as file:
    json.dump(note, file)
sys.exit()
"""
# What each of two processes does, and what the first and the second write into their files.
BODIES = {
    "dropout draws apart, and again the same in the same epoch": ("""
    processes.part_streams(7, 3)
    first = torch.rand(2).tolist()
    processes.part_streams(7, 3)
    note = [first, torch.rand(2).tolist()]
    """, lambda one, other: other[0] == other[1] and one[0] != other[0]),
    "the first has all cores while it works": ("""
    torch.set_num_threads(1)
    inside = processes.first(torch.get_num_threads)
    note = [inside, torch.get_num_threads()]
    """, lambda one, other: one == other == [environment.available_cores(), 1]),
    "one passes before the other": ("""
    with processes.first_of_machine():
        time.sleep(0.5 * (1 - rank))
        note = time.monotonic()
    """, lambda one, other: one < other),
    "other images are found": ("""
    module, losses = torch.nn.Linear(1, 1, bias=False), {"loss": torch.ones(())}
    torch.nn.init.ones_(module.weight)
    processes.compare([module], torch.arange(4), losses)
    try:
        processes.compare([module], torch.arange(4).roll(rank), losses)
    except RunError as error:
        note = str(error)
    """, lambda one, other: "alike: images of a batch differ" in one and one == other),
    "other values of a term are found": ("""
    def terms(by):
        return {"a": torch.tensor(2.0), "b": torch.tensor(3.0 + by * rank)}
    module = torch.nn.BatchNorm1d(2)
    processes.compare([module], torch.arange(4), terms(1e-4))
    try:
        processes.compare([module], torch.arange(4), terms(1e-2))
    except RunError as error:
        note = str(error)
    """, lambda one, other: "alike: values of the loss b differ" in one and one == other),
}


@pytest.mark.parametrize("what", BODIES)
def test_between_two_processes(server, tmp_path, what):
    body, holds = BODIES[what]
    code = APART.replace("{body}", body.strip()).replace("{folder}", str(tmp_path))
    launched = Launched(server, 2, [], code)
    assert launched.wait() == [0, 0], launched.err
    assert holds(*(json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)))


def test_who_keeps_the_store_leaves_last(server):
    """Where no agent keeps it, the others can still read what they wait for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launched = Launched(server, 2, [], """
import sys, time
from utilities import distributed

del os.environ["TORCHELASTIC_USE_AGENT_STORE"]
os.environ["MASTER_PORT"] = "{port}"
with distributed.join() as processes:
    processes.first(lambda: None)
    time.sleep(processes.rank)
    processes.store.check(["end"])
sys.exit()
""".replace("{port}", str(port)))
    assert launched.wait() == [0, 0], launched.err


def test_a_full_disk_ends_all_with_one_line(run):
    launched = run.launch("--n_epochs", 3, patch=AT + "if os.environ['RANK'] == '0': at(6, full)")
    assert launched.wait() == [1, 1]
    line, = launched.err.splitlines()
    assert line.startswith("diva_main.py: error: cannot write") and "No space left" in line
    assert runs.last(run.made)["epoch"] == 1


def test_a_broken_image_in_the_share_of_one_process_is_named_once(run, tmp_path):
    path = sorted((tmp_path / "data" / "tiny" / "images").glob("*/*"))[3]
    path.write_bytes(path.read_bytes()[:200])
    launched = run.launch("--n_epochs", 30)
    assert launched.wait() == [2, 2]
    line, = launched.err.splitlines()
    assert line.startswith("diva_main.py: error: ") and str(path) in line


def test_values_that_are_not_finite_are_reported_once(run):
    launched = run.launch("--lr", 1e30, "--n_epochs", 30)
    assert launched.wait() == [1, 1]
    line, = launched.err.splitlines()
    assert "is not finite in epoch" in line and (run.made / "not_finite.json").exists()


@pytest.mark.parametrize("argv, size, says", [
    (("--bs", 6), 2, "--bs: 6 images given, of which 2 processes cannot take equal halves; "
                     "accepted: a multiple of 4, such as 4"),
    (("--bs", 8), 5, "--bs: 8 images given, of which 5 processes cannot take equal halves; "
                     "accepted: a multiple of 10, such as 10"),
    (("--gpu", 1), 2, "--gpu: 1 given to a process of torchrun, which numbers the GPUs; "
                      "accepted: CUDA_VISIBLE_DEVICES in front of torchrun"),
    (("--cache", "gpu"), 2, "--cache: 'gpu' given with --device cpu; accepted: none, ram"),
    (("--cache", "gpu", "--device", "auto"), 2, "--cache: 'gpu' given, but there is no CUDA device "
                                                "here; accepted: another value"),
    (("--bs", 64), 2, "--bs: 64 is more than the 32 training images of --dataset tiny; "
                      "accepted: at most 32")], ids=str)
def test_what_cannot_be_shared_is_refused_in_one_line(run, argv, size, says):
    if torch.cuda.is_available() and "auto" in argv:
        pytest.skip("there is a CUDA device")
    launched = run.launch(*argv, size=size)
    assert launched.wait() == [2] * size
    assert launched.err == f"diva_main.py: error: {says}\n"
    assert not runs.folders(run.folder)


@pytest.fixture
def torchrun(run):
    """torchrun(*argv) -> the process that has started two others."""
    started = []

    def start(*argv):
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                 "2", str(forks.ROOT / "diva_main.py"), *argv]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_torchrun_trains_the_run_of_one_process(run, torchrun, tmp_path):
    run.trained("--lr", 1e-5, size=1)
    alone, = runs.folders(tmp_path)
    process = torchrun(*run.words("--lr", 1e-5))
    out, err = process.communicate(timeout=forks.PATIENCE)
    assert process.returncode == 0 and out.count("Training took") == 1, err
    several, = runs.folders(tmp_path) - {alone}
    for name in ("Train_loss", "Model Grad_L2", "Test_discriminative_e_recall"):
        for row, wanted in zip(runs.rows(several, name), runs.rows(alone, name), strict=True):
            assert row == pytest.approx(wanted, rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("stop, says", [
    (signal.SIGTERM, "Stopped by SIGTERM after"), (signal.SIGINT, "Stopped by SIG"),
    (signal.SIGKILL, "")], ids=["SIGTERM", "SIGINT", "a worker is killed"])
def test_what_stops_torchrun_leaves_a_run_that_goes_on(run, torchrun, tmp_path, stop, says):
    process = torchrun(*run.words("--n_epochs", 1000))
    for line in process.stdout:
        if line.startswith("Epoch 1:"):
            break
    if stop == signal.SIGKILL:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), stop)
    else:
        process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count(says or "another process of this run has ended") == 1, err
    saved = runs.last(run.made)["epoch"]
    assert saved >= 1
    launched = Launched(run.server, 1, ["--resume", run.made, "--n_epochs", saved + 1])
    assert launched.wait() == [0], launched.err
