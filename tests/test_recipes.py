"""`--clip_grad`, `--freeze_backbone`, `--ema` and `--evaluate_every`, by naive oracles on the steps
and files of runs."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import diva_main
import parameters
from evaluation import summarize
from tests import runs, trees
from tests.processes import clone
from tests.test_training_contract import ALL, ON_TRUNK, SMALLEST, named_parameters, train
from tests.tools import call
from utilities import average


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two batches of eight an epoch."""
    folder = tmp_path_factory.mktemp("recipes")
    trees.class_folders(folder / "data" / "tiny", n_classes=8, n_images=4)
    return folder


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_step_takes_the_clipped_gradient_and_the_whole_one_is_logged(tree, chunk):
    """That of the network; criteria keep theirs."""
    training = runs.assembled(
        tree, *SMALLEST, "--optim", "sgd", "--lr", 1, "--decay", 0, "--loss_margin_beta_lr", 1,
        "--clip_grad", 0.01, "--bs", 16, "--grad_cache_chunk", chunk)
    (step,), start = train(training, alone=False)
    network = {name for name, _ in training.network.named_parameters()}
    gradients = [step.gradients[name] for name in network]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.02
    for name, value in named_parameters(training).items():
        scale = 0.01 / norm if name in network else 1
        torch.testing.assert_close(start[name] - value.detach(), scale * step.gradients[name],
                                   rtol=1e-3, atol=1e-6)
    n_entries = sum(gradient.numel() for gradient in gradients)
    assert training.monitor.means["Grad L2"] == pytest.approx(
        float(norm / n_entries**0.5), rel=1e-4)
    assert training.monitor.means["Grad Max"] == pytest.approx(
        float(max(gradient.abs().max() for gradient in gradients)))


def test_a_gradient_within_the_limit_stays_as_it_is(tree):
    plain, limited = (runs.assembled(tree, *SMALLEST, *argv) for argv in (
        [], ["--clip_grad", 1e6]))
    for training in (plain, limited):
        training.train_epoch(0)
    assert all(map(torch.equal, plain.network.parameters(), limited.network.parameters()))


def test_while_the_backbone_rests_heads_and_criteria_learn_alone(tree):
    """Neither decay nor the momentum of SGD moves it, nor do batches its BatchNorm statistics."""
    training = runs.assembled(
        tree, "--diva_features", *ALL, "--diva_decorrelations", "shared-intra", "--n_epochs", 4,
        "--freeze_backbone", 2, "--optim", "sgd", "--decay", 0.5, "--lr", 0.1)
    training.begin()
    states = [clone(training.state_dict())]
    for epoch in range(4):
        training.train_epoch(epoch)
        states.append(clone(training.state_dict()))
    names = states[0]["state_dict"].keys()
    first, second, *later = (
        {name for name in names
         if not torch.equal(before["state_dict"][name], after["state_dict"][name])}
        for before, after in itertools.pairwise(states))
    heads = {name for name in names if "last_linear" in name}
    learning = {name for name in heads if name.split(".")[-2] not in ON_TRUNK}
    assert first == second == learning and later == [names - (heads - learning)] * 2
    learned = {f"{i}.criterion.{name}" for i, feature in enumerate(training.objective)
               for name, _ in feature.criterion.named_parameters()}
    assert len(learned) > 8
    for name in learned:
        assert not torch.equal(states[0]["objective"][name], states[1]["objective"][name]), name
    backbone, = (group["params"] for group in training.optimiser.param_groups
                 if group["name"] == "network")
    assert all(parameter.requires_grad for parameter in backbone)


def test_a_resting_backbone_costs_no_graph_and_terms_on_the_trunk_are_still_measured(tree):
    training = runs.assembled(tree, *SMALLEST, "--diva_features", "discriminative", "imrot",
                              "--freeze_backbone", 1, "--log_every", 1)
    trunks, logged, loss = [], {}, training.objective[1].loss
    training.objective[1].loss = lambda step: (trunks.append(step.trunk), loss(step))[1]
    training.record.logger.log = lambda split, group, values, best="none": logged.setdefault(
        group, values)
    training.train_epoch(0)
    assert len(trunks) == 2 and all(trunk.is_leaf for trunk in trunks)
    assert logged["Gradient share"]["imrot"] > 0
    training.train_epoch(1)
    assert not trunks[-1].is_leaf


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5_normalize", SMALLEST[1]])
def test_the_average_is_evaluated_and_kept_and_training_is_as_without_it(
        tmp_path, monkeypatch, capsys, arch):
    """It starts as the network before training. BatchNorm's statistics are averaged, too."""
    argv = ("--arch", arch, "--n_epochs", 2, "--diva_features", *runs.FOUR)
    plain = runs.train(tmp_path, *argv)
    expected, move = {}, average.move

    def follow(averaged, network, share):
        if not expected:
            expected.update({name: value.double() for name, value in averaged.state_dict().items()})
            start = runs.assembled(tmp_path, *argv).network.state_dict()
            assert all(torch.equal(value, start[name])
                       for name, value in averaged.state_dict().items())
        for name, value in network.state_dict().items():
            counts = not value.is_floating_point()
            expected[name] = value if counts else 0.8 * expected[name] + 0.2 * value.double()
        move(averaged, network, share)

    monkeypatch.setattr(average, "move", follow)
    capsys.readouterr()
    folder = runs.train(tmp_path, *argv, "--ema", 0.8, "--storage_metrics", "mAP")
    printed = capsys.readouterr().out
    last, without = runs.last(folder), runs.last(plain)
    for one, other in ((last["trained"], without["state_dict"]),
                       (last["objective"], without["objective"])):
        assert all(torch.equal(one[name], value) for name, value in other.items())
    for name, value in last["state_dict"].items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-4, atol=1e-6)
        assert not value.is_floating_point() or not torch.equal(value, last["trained"][name])
    best, = folder.glob("checkpoint_disc*")
    saved = torch.load(best, weights_only=True)
    assert saved["epoch"] == 0 or all(torch.equal(value, last["state_dict"][name])
                                      for name, value in saved["state_dict"].items())
    # What the run printed last is what the file of its last epoch gives.
    assert diva_main.main(parameters.read_arguments(
        ["--evaluate_only", "--checkpoint", str(folder / "checkpoint_last.pth.tar")])) == 0
    row = next(line for line in capsys.readouterr().out.splitlines()
               if line.startswith("discriminative"))
    assert row in printed.split("Test, epoch 1")[1]


def test_the_storage_and_clusters_are_those_of_the_trained_network(tmp_path):
    argv = ("--n_epochs", 2, "--data_sampler", "d2_coreset", "--data_idx_full_prec",
            "--diva_features", "discriminative", "dc")
    plain, averaged = (runs.last(runs.train(tmp_path, *argv, *more))
                       for more in ([], ["--ema", 0.99]))
    for part in ("sampler", "objective"):
        one, other = (dict(runs.leaves(state[part], part)) for state in (plain, averaged))
        assert one.keys() == other.keys()
        assert all(runs.same(one[name], other[name]) for name in one)


def test_epochs_between_evaluations(tmp_path, capsys):
    """Logs, plots, checkpoints and the summary tool keep to the epochs that are evaluated."""
    argv = ("--evaluation_metrics", "e_recall@1", "nmi", "--n_epochs", 6, "--plots", "end",
            "--evaluate_every", 2, "--cluster_every", 3)
    folder = runs.train(tmp_path, *argv)
    printed = capsys.readouterr().out
    assert [f"Test, epoch {epoch}" in printed for epoch in range(6)] == [
        True, False, True, False, True, True]
    state = runs.last(folder)
    epochs = {f"{entry['split']}_{entry['group']}": entry["epochs"].tolist()
              for entry in state["logger"]["series"]}
    assert epochs["Train_loss"] == [*range(6)]
    assert epochs["Test_discriminative_e_recall"] == [0, 2, 4, 5]
    assert epochs["Test_discriminative_nmi"] == [0, 4, 5]
    assert [row["epochs"] for row in runs.rows(folder, "Test_epochs")] == [0, 2, 4, 5]
    assert len(runs.rows(folder, "Test_discriminative_e_recall")) == 4
    assert state["evaluator"]["last"]["epoch"] == 5
    assert torch.load(next(folder.glob("checkpoint_disc*")), weights_only=True)["epoch"] in (
        0, 2, 4, 5)
    assert (folder / "Progression_Plots" / "Graph_Test_discriminative_e_recall.svg").exists()
    assert call(summarize, folder, "--format", "csv") == 0
    rows = capsys.readouterr()
    assert "last,e_recall@1" in rows.out and "Unfinished" not in rows.err


def test_the_last_epoch_is_evaluated_when_a_resume_makes_it_the_last(tmp_path, monkeypatch, capsys):
    """The file of each best epoch and the summary are then those of a run that ends there."""
    argv = ("--evaluate_every", 4, "--freeze_backbone", 1, "--ema", 0.5)
    whole = runs.train(tmp_path, *argv, "--n_epochs", 2)
    train_epoch = diva_main.Training.train_epoch

    def train_two(training, epoch):
        if epoch == 2:
            raise InterruptedError
        train_epoch(training, epoch)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(diva_main.Training, "train_epoch", train_two)
        runs.train(tmp_path, *argv, "--n_epochs", 9)
    stopped, = runs.folders(tmp_path) - {whole}
    assert runs.last(stopped)["evaluator"]["last"]["epoch"] == 0
    capsys.readouterr()
    for _ in range(2):      # the second time there is nothing to do
        runs.resume(stopped, "--n_epochs", 2)
    assert capsys.readouterr().out.count("Test, epoch 1") == 1
    assert runs.differences(whole, stopped) == []


@pytest.mark.parametrize("name", ["warmup_epochs", "freeze_backbone"])
def test_a_resume_names_the_flag_that_it_was_given(tmp_path, capsys, name):
    folder = runs.train(tmp_path, "--n_epochs", 2, f"--{name}", 2)
    with pytest.raises(SystemExit):
        parameters.read_arguments(["--resume", str(folder), "--n_epochs", "1"])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"diva_main.py: error: --n_epochs: 1 given, but the run in {str(folder)!r} has "
        f"--{name} 2; accepted: a whole number from 2 upwards")


def test_evaluations_leave_training_as_it_is(tmp_path):
    often, rarely = (runs.last(runs.train(tmp_path, "--n_epochs", 3, *argv)) for argv in (
        [], ["--evaluate_every", 100]))
    assert all(map(torch.equal, often["state_dict"].values(), rarely["state_dict"].values()))
    assert json.dumps(often["evaluator"]["last"]) == json.dumps(rarely["evaluator"]["last"])


@pytest.mark.parametrize("scheduler, idle", [
    ("step", []), ("exp", ["tau"]), ("cosine", ["tau", "gamma"]), ("none", ["tau", "gamma"])])
def test_options_that_the_scheduler_does_not_read_warn(capsys, scheduler, idle):
    parameters.read_arguments(["--scheduler", scheduler, "--tau", "3", "4", "--gamma", "0.5"])
    values = {"tau": "3 4", "gamma": "0.5"}
    assert capsys.readouterr().err.splitlines() == [
        f"diva_main.py: warning: --{name}: {values[name]} given, but --scheduler {scheduler} does "
        "not read it; no effect" for name in idle]


def test_the_form_of_dance_warns_beside_plain_moco(capsys):
    for argv, what in ((["--diva_dance", "weighted"], "--diva_dance: 'weighted' given"),
                       (["--diva_fixed"], "--diva_fixed: given")):
        parameters.read_arguments([*argv, "--diva_ssl", "moco"])
        assert capsys.readouterr().err == (
            f"diva_main.py: warning: {what}, but --diva_ssl moco does not read it; no effect\n")
        parameters.read_arguments(argv)
        assert capsys.readouterr().err == ""
