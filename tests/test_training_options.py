"""What the options of a training do, measured on the steps of the epoch loop.

Every test compares with the run without the option, so that an option without effect fails.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys

import pytest
import torch

from datasampler import d2_coreset
from datasets.loader import Loader, Shares
from evaluation.evaluator import Evaluator
from tests import runs, trees
from tests.test_layers import ROOT
from tests.test_training_contract import ALL, SMALLEST, named_parameters, train
from utilities.embedding import embed

# Losses that follow from the embeddings alone: no miner whose choice a rounding may change.
STEADY = ("--loss", "multisimilarity", "--diva_features", "discriminative", "selfsimilarity",
          "imrot", "invariantspread", "--diva_decorrelations", "selfsimilarity-discriminative",
          "--diva_rho_decorrelation", 100)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    trees.class_folders(folder / "data" / "tiny", n_classes=8, n_images=4)
    return folder


def steps(tree, *argv):
    """(the training, what its first two steps saw, what they started from)."""
    training = runs.assembled(tree, *SMALLEST, *argv)
    return training, *train(training, alone=False)


def convolutions(training):
    return [m for m in training.network.modules() if isinstance(m, torch.nn.Conv2d)]


def assert_same_step(one, other, tolerance: float) -> None:
    """Losses and the gradients behind the backbone agree, an error measured by a tensor's largest
    entry; in the backbone, where rounding decides near ties of poolings and rectifiers, gradients
    point the same way."""
    for name, loss in one.losses.items():
        torch.testing.assert_close(other.losses[name], loss, rtol=tolerance, atol=tolerance)
    for name, gradient in one.gradients.items():
        if gradient is None:
            assert other.gradients[name] is None, name
        elif name.startswith("model.") and "last_linear" not in name:
            pair = gradient.flatten(), other.gradients[name].flatten()
            assert torch.cosine_similarity(*pair, dim=0) > 0.98, name
            assert 0.95 < pair[0].norm() / pair[1].norm() < 1.05, name
        else:
            error = (other.gradients[name] - gradient).abs().max()
            assert error < tolerance * gradient.abs().max() + 1e-7, name


def test_fp32_without_a_cache_is_what_a_run_does_unless_told_otherwise(tmp_path):
    """The faster paths below are compared with it."""
    argv = ("--diva_features", *runs.FOUR, *SMALLEST)
    plain = runs.train(tmp_path, *argv)
    named = runs.train(tmp_path, *argv, "--precision", "fp32", "--cache", "none")
    assert runs.differences(plain, named) == []


def test_bf16_computes_the_network_in_bf16_and_the_objective_in_fp32(tree):
    _, plain, _ = steps(tree, *STEADY)
    dtypes = set()
    fast = runs.assembled(tree, *SMALLEST, *STEADY, "--precision", "bf16")
    for network in (fast.network, fast.objective[1].key_network):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda m, i, output: dtypes.add(output.dtype))
    rounded, _ = train(fast, alone=False)
    assert dtypes == {torch.bfloat16}
    for name, loss in plain[0].losses.items():
        assert rounded[0].losses[name].dtype == torch.float32
        assert 0 < (rounded[0].losses[name] - loss).abs() < 0.05 * loss.abs(), name
    assert all(gradient is None or gradient.dtype == torch.float32
               for gradient in rounded[0].gradients.values())


def test_criteria_and_miners_compute_in_float32_outside_autocast(tree):
    training = runs.assembled(tree, *SMALLEST, "--precision", "bf16", "--diva_features",
                              *ALL, "--diva_decorrelations", "shared-discriminative")
    seen = {}

    def watch(name, function):
        def watched(*given):
            tensors = [t for x in given for t in (x.values() if isinstance(x, dict) else [x])]
            seen.setdefault(name, set()).update(
                (t.dtype, torch.is_autocast_enabled("cpu")) for t in tensors
                if t.is_floating_point())
            return function(*given)

        return watched

    for feature in training.objective:
        criterion = feature.criterion
        criterion.forward = watch(feature.name, criterion.forward)
        if hasattr(criterion, "batchminer"):
            criterion.batchminer = watch(f"miner of {feature.name}", criterion.batchminer)
    train(training, alone=False)
    assert len(seen) == len(ALL) + 1 + 6    # decorrelation, and the miners of six features
    assert all(value == {(torch.float32, False)} for value in seen.values()), seen


def test_bf16_embeddings_are_near_those_of_fp32(tree):
    training = runs.assembled(tree, *SMALLEST)
    loader = Loader(training.splits["testing"], training.opt, "cpu")
    fast = runs.assembled(tree, *SMALLEST, "--precision", "bf16").network
    fast.load_state_dict(training.network.state_dict())
    exact, rounded = (embed(network, loader, ["discriminative"])
                      for network in (training.network, fast))
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).norm(dim=1).max() < 0.02


def test_channels_last_changes_the_memory_not_the_numbers(tree):
    def inner_channels(tensor):
        return tensor.is_contiguous(memory_format=torch.channels_last) and tensor.stride(1) == 1

    training, plain, _ = steps(tree, *STEADY)
    fast = runs.assembled(tree, *SMALLEST, *STEADY, "--channels_last")
    seen, outputs = [], []
    fast.objective[0].prepare = lambda batch: (seen.extend(
        (batch.images, batch.second_views, batch.rotated_views)), batch)[1]
    for module in convolutions(fast):
        module.register_forward_hook(lambda m, i, output: outputs.append(output))
    changed, _ = train(fast, alone=False)
    assert all(map(inner_channels, seen + outputs)) and len(seen) == 6
    wide = [(query, key) for query, key in zip(
        fast.network.parameters(), fast.objective[1].key_network.parameters(), strict=True)
        if query.dim() == 4 and query.shape[1] > 1]
    assert len(wide) > 20 and all(inner_channels(w) for pair in wide for w in pair)
    assert not any(w.shape[1] > 1 and w.shape[2] > 1 and inner_channels(w)
                   for m in convolutions(training) for w in [m.weight])
    assert_same_step(plain[0], changed[0], 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")),
                    reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_same_numbers(tree):
    from torch._dynamo.utils import counters

    _, plain, _ = steps(tree, *STEADY)
    counters.clear()
    fast, compiled, _ = steps(tree, *STEADY, "--compile")
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"]
    assert_same_step(plain[0], compiled[0], 1e-4)
    # The key network, too; and evaluation of a last batch that is shorter.
    assert fast.objective[1].key_network._compiled_call_impl is not None
    loader = Loader(fast.splits["testing"], fast.opt, "cpu")
    loader.batches.batch_size = 7
    compiled_heads = embed(fast.network, loader, ["discriminative"])
    with torch.compiler.set_stance("force_eager"):
        eager_heads = embed(fast.network, loader, ["discriminative"])
    torch.testing.assert_close(compiled_heads, eager_heads, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_where_torch_cannot_compile_the_run_is_refused(tmp_path):
    """In one line, before anything is written."""
    words = runs.arguments(tmp_path, *SMALLEST, "--compile")
    done = subprocess.run(
        [sys.executable, "diva_main.py", *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"CXX": "no-such-compiler", "PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(
            tmp_path / "cache")})
    line, = (line for line in done.stderr.splitlines() if line.startswith("diva_main.py"))
    assert line.startswith("diva_main.py: error: --compile: torch cannot compile here: ")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("full", [False, True])
def test_the_next_epoch_is_started_before_the_evaluation_unless_its_storage_is_not_full(
        tmp_path, monkeypatch, full):
    events, start, evaluate = [], Loader.start, Evaluator.evaluate
    fill = d2_coreset.Sampler.fill

    def note(name, function):
        return lambda self, *given, **more: events.append(name) or function(self, *given, **more)

    def note_start(self, epoch):
        if isinstance(self.batches, Shares):
            events.append(f"start {epoch}")
        start(self, epoch)

    monkeypatch.setattr(Loader, "start", note_start)
    monkeypatch.setattr(Evaluator, "evaluate", note("evaluate", evaluate))
    monkeypatch.setattr(d2_coreset.Sampler, "fill", note("fill", fill))
    runs.train(tmp_path, *SMALLEST, "--n_epochs", 2, "--data_sampler", "d2_coreset",
               *["--data_idx_full_prec"] * full)
    assert events == (["fill", "start 0", "evaluate", "fill", "start 1", "evaluate"] if full else
                      ["fill", "start 0", "start 1", "evaluate", "evaluate"])


@pytest.mark.parametrize("argv", [(), ("--data_sampler", "d2_coreset"),
                                  ("--data_sampler", "d2_coreset", "--data_idx_full_prec"),
                                  ("--data_sampler", "criterion_batchmatch")], ids=" ".join)
def test_workers_give_a_bit_identical_run(tmp_path, argv):
    argv = (*SMALLEST, "--n_epochs", 3, *argv)
    alone, worked = (runs.train(tmp_path, *argv, "--kernels", kernels) for kernels in (0, 2))
    assert runs.differences(alone, worked) == []


def test_a_cache_in_memory_gives_a_bit_identical_run(tmp_path, capsys):
    argv = ("--diva_features", *runs.FOUR, *SMALLEST, "--n_epochs", 2)
    plain = runs.train(tmp_path, *argv)
    assert "--cache" not in capsys.readouterr().out
    cached = runs.train(tmp_path, *argv, "--cache", "ram")
    assert "decoded images need" in capsys.readouterr().out
    assert runs.differences(plain, cached) == []


def test_a_cache_in_memory_reads_no_file_twice(tree, monkeypatch):
    training = runs.assembled(tree, *SMALLEST, "--cache", "ram")

    def refuse(path):
        raise AssertionError(f"decodes {path}")

    for module in ("datasets.images", "datasets.cache"):
        monkeypatch.setattr(f"{module}.decode", refuse)
    assert len(train(training, alone=False)[0]) == 2
    with pytest.raises(AssertionError, match="decodes"):
        steps(tree)


OPTIMISERS = {"adam": [], "adamw": ["--optim", "adamw"], "sgd": ["--optim", "sgd"]}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("fc_lr", [None, 0.02, 0])
def test_two_steps_of_the_optimiser(tree, name, fc_lr):
    """Adam, AdamW and SGD with momentum 0.9 by their formulas; decay on all of the network and on
    nothing else; --fc_lr."""
    argv = [] if fc_lr is None else ["--fc_lr", fc_lr]
    training, seen, start = steps(tree, "--lr", 1e-3, "--decay", 0.1, "--loss_margin_beta_lr", 0.05,
                                  *OPTIMISERS[name], *argv)
    for key, value in named_parameters(training).items():
        is_criterion = key.startswith("discriminative: ")
        head = "last_linear" in key
        lr = 0.05 if is_criterion else 1e-3 if not head or fc_lr is None else fc_lr
        expected = start[key].double()
        first = second = torch.zeros_like(expected)
        for t, step in enumerate(seen, 1):
            gradient, decay = step.gradients[key].double(), 0 if is_criterion else 0.1
            if name == "adamw":
                expected = expected - lr * decay * expected
            else:
                gradient += decay * expected
            if name == "sgd":
                first = 0.9 * first + gradient
                expected = expected - lr * first
            else:
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                expected = expected - lr * (first / (1 - 0.9**t)) / (
                    (second / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(value.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_use_sgd_is_optim_sgd(tree):
    trained = [named_parameters(steps(tree, *argv)[0]) for argv in (
        [], ["--use_sgd"], ["--optim", "sgd"])]
    adam, one, other = ([parameter.detach() for parameter in t.values()] for t in trained)
    assert all(map(torch.equal, one, other)) and not any(map(torch.equal, adam, one))


SCHEDULES = {
    "step": (["--tau", 1, 3, "--gamma", 0.5], lambda e: 0.5 ** ((e >= 1) + (e >= 3))),
    "exp": (["--scheduler", "exp", "--gamma", 0.7], lambda e: 0.7**e),
    "none": (["--scheduler", "none", "--tau", 1, "--gamma", 0.5], lambda e: 1),
    "cosine": (["--scheduler", "cosine"], lambda e: (1 + math.cos(math.pi * e / 5)) / 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_over_the_epochs(tree, name):
    """Of all groups, as logged by each epoch and as its steps have used them."""
    argv, factor = SCHEDULES[name]
    logged, used = learning_rates(tree, *argv)
    for epoch in range(5):
        expected = {group: pytest.approx(lr * factor(epoch)) for group, lr in RATES.items()}
        assert logged[epoch] == used[2 * epoch] == used[2 * epoch + 1] == expected


@pytest.mark.parametrize("name", [*SCHEDULES, "whole run"])
def test_learning_rates_rise_in_every_step_before_they_fall(tree, name):
    """Over two epochs, or all five; what is logged are those of an epoch's last step."""
    argv, factor = SCHEDULES.get(name, (["--scheduler", "cosine"], None))
    if name == "cosine":
        def factor(e):
            return (1 + math.cos(math.pi * e / 3)) / 2
    n = 10 if name == "whole run" else 4
    logged, used = learning_rates(tree, *argv, "--warmup_epochs", n // 2)
    factors = [(t + 1) / n if t < n else factor((t - n) // 2) for t in range(10)]
    for t in range(10):
        assert used[t] == {group: pytest.approx(lr * factors[t]) for group, lr in RATES.items()}
    assert logged == used[1::2]


RATES = {"network": 1e-3, "heads": 0.02, "criterion of discriminative": 0.3}


def learning_rates(tree, *argv) -> tuple[list[dict], list[dict]]:
    """Those logged by five epochs, and those used by their ten steps."""
    training = runs.assembled(tree, *SMALLEST, "--n_epochs", 5, *argv, "--lr", 1e-3, "--fc_lr",
                              0.02, "--loss_margin_beta_lr", 0.3)
    logged, used, step = [], [], training.scaling.step

    class Logger:
        def log(self, split, group, segments, best="none"):
            if group == "Learning rate":
                logged.append(segments)

    training.scaling.step = lambda optimiser: (used.append(
        {group["name"]: group["lr"] for group in optimiser.param_groups}), step(optimiser))[1]
    training.record.logger = Logger()
    for epoch in range(5):
        training.train_epoch(epoch)
    return logged, used


def best_epochs(folder) -> dict[str, int]:
    """{storage metric: epoch of its checkpoint}."""
    name = "checkpoint_discriminative_"
    return {path.name.removeprefix(name).removesuffix(".pth.tar"):
            torch.load(path, weights_only=True)["epoch"] for path in folder.glob(f"{name}*")}


@pytest.mark.parametrize("argv, split", [
    ([], "Test"), (["--train_val_split", 0.5], "Val"),
    (["--train_val_split", 0.5, "--train_val_split_by_class"], "Val"),
    (["--train_val_split", 0.5, "--train_val_split_by_class", "--dataset", "in-shop"], "Val")])
def test_checkpoints_are_the_best_on_validation_where_there_is_one(tmp_path, capsys, argv, split):
    trees.in_shop(tmp_path / "data" / "in-shop", n_classes=8)
    folder = runs.train(tmp_path, "--n_epochs", 4, "--bs", 4, "--evaluation_metrics", "e_recall@1",
                        "--storage_metrics", "mAP", "e_recall@2", *argv)
    best, found = best_epochs(folder), runs.last(folder)["evaluator"]["best"]
    assert best.keys() == {"mAP", "e_recall@2"}
    assert (folder / "CSV_Logs" / "Data_Val_discriminative_mAP.csv").exists() == (split == "Val")
    for _, metric, entry in found:
        values, on_test = ([row[metric] for row in runs.rows(
            folder, f"{name}_discriminative_{metric.split('@')[0]}")] for name in (split, "Test"))
        assert len(values) == 4 and (split == "Test") == (values == on_test)
        assert entry["value"] == values[best[metric]] == max(values)
    assert f"on the {'validation' if split == 'Val' else 'test'} split" in capsys.readouterr().out


def pictures(tree, *argv):
    """(main views, second views) of the first training batch, and the first test batch's."""
    training = runs.assembled(tree, *SMALLEST, "--diva_features", *runs.FOUR, *argv)
    batch = next(training.loader.epoch(0))
    test = next(Loader(training.splits["testing"], training.opt, "cpu").epoch(0))
    return batch.images, batch.second_views, test.images


def greyness(images) -> float:
    """Largest share of a batch's images whose channels are alike, up to the normalisation."""
    scale = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    shift = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    levels = images * scale + shift
    return ((levels.amax(1) - levels.amin(1)).amax((1, 2)) < 0.01).float().mean()


AUGMENTATIONS = {     # which of main, second and test view differ from those of `base`
    "base": (["--augmentation", "base"], (False, False, False)),
    "adv": (["--augmentation", "adv"], (True, True, False)),
    "red": (["--augmentation", "red"], (True, True, False)),
    "realistic second view": (["--realistic_augmentation"], (False, True, False)),
    "realistic main view": (["--realistic_main_augmentation"], (True, False, False)),
    "both": (["--realistic_augmentation", "--realistic_main_augmentation"], (True, True, False)),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_act_on_the_views_that_they_name(tree, name):
    argv, expected = AUGMENTATIONS[name]
    plain, changed = pictures(tree), pictures(tree, *argv)
    assert tuple(not a.equal(b) for a, b in zip(plain, changed, strict=True)) == expected
    assert all(view.shape == plain[0].shape for view in changed)


def test_realistic_main_augmentation_wins_over_augmentation_there(tree):
    one, _, _ = pictures(tree, "--realistic_main_augmentation")
    other, second, _ = pictures(tree, "--realistic_main_augmentation", "--augmentation", "red")
    _, red, _ = pictures(tree, "--augmentation", "red")
    assert one.equal(other) and second.equal(red)


def test_big_augmentation_is_of_crops_of_256_in_evaluation_too(tree):
    words = [str(word) for word in runs.arguments(tree, *SMALLEST, "--augmentation", "big")]
    sizes = [word for word in words if word not in ("--crop_size", "--resize", "32", "36")]
    import diva_main
    import parameters

    training = diva_main.Training(parameters.read_arguments(sizes))
    batch = next(training.loader.epoch(0))
    test = next(Loader(training.splits["testing"], training.opt, "cpu").epoch(0))
    assert batch.images.shape[2:] == test.images.shape[2:] == (256, 256)
