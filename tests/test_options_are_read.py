"""No option does nothing: each is read by the code, and changes what it is said to act on."""

from __future__ import annotations

import ast
import copy
import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import batchminer
import criteria
import datasampler
from parameters import (
    BATCHMINER,
    DATASAMPLER,
    DATASETS,
    DIVA,
    FLAGS,
    NO_EFFECT,
    PAIR_LOSSES,
    PROXY_LOSSES,
    TRAINING,
)
from tests import runs, trees
from tests.test_layers import ROOT
from tests.test_parameters import ADDED, FROZEN
from tests.test_training_contract import SMALLEST, train

IDLE = {name for name, flag in FLAGS.items() if flag.help.startswith(NO_EFFECT)}
# parameters.py turns the one into the other.
RESOLVED = {"use_sgd": "optim", "diva_fixed": "diva_dance"}


def reads(path) -> set[str]:
    """Names x of `opt.x` and `self.opt.x` that a file reads."""
    return {node.attr for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            and "opt" in (getattr(node.value, "id", None), getattr(node.value, "attr", None))}


def test_every_option_is_read_outside_parameters():
    files = [ROOT / "diva_main.py", *(path for path in ROOT.glob("*/**/*.py")
                                      if path.relative_to(ROOT).parts[0] not in ("tests", ".venv"))]
    read = set().union(*map(reads, files))
    assert FLAGS.keys() - read == IDLE | RESOLVED.keys()
    assert read - FLAGS.keys() == {"given"}


def changed(flag):
    """Another value than the default, where no table below names one."""
    if flag.kind is bool:
        return []
    if flag.accepts and flag.kind is str:
        return [next(name for name in flag.accepts if name != flag.default)]
    return [flag.kind(1.5 * flag.default or 0.3)]


# Losses: options beside the one in question.
WITH = {"loss_snr_beta_lr": ["--loss_snr_beta", 0.5],
        "loss_snr_reg_lambda": ["--batch_mining", "random"]}
LOSS_FLAGS = [flag for flag in (*PAIR_LOSSES, *PROXY_LOSSES)
              if flag.dest.startswith("loss_") and flag.dest not in IDLE]


@pytest.mark.parametrize("flag", LOSS_FLAGS, ids=lambda flag: flag.dest)
def test_an_option_of_a_loss_changes_its_value_gradients_or_rate(make_opt, flag):
    loss = max((name for name in criteria.LOSSES if flag.dest.startswith(f"loss_{name}_")), key=len)
    raw, labels = torch.randn(24, 8), torch.arange(24) // 4

    def outcome(*argv):
        opt = make_opt("--loss", loss, "--embed_dim", 8, *WITH.get(flag.dest, []), *argv)
        miner = batchminer.select(opt.batch_mining, opt) if loss in criteria.TAKES else None
        torch.manual_seed(1)
        criterion = criteria.select(loss, opt, n_classes=6, batchminer=miner)
        x = F.normalize(raw + 2 * torch.eye(8)[labels], dim=1).requires_grad_()
        value = criterion(x, labels)
        value.backward()
        return [torch.tensor(float(criterion.lr or 0)), value.detach(), x.grad,
                *(p.grad for p in criterion.parameters())]

    assert same(outcome(), outcome())
    assert not same(outcome(), outcome(flag.name, *changed(flag)))


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


MINER_VALUES = {"miner_parametric_support_lim": [0.1, 0.9],
                "miner_anticollapse_distance_upper_cutoff": [0.8]}
MINER_FLAGS = [flag for flag in BATCHMINER
               if flag.dest.startswith("miner_") and flag.dest not in IDLE]


@pytest.mark.parametrize("flag", MINER_FLAGS, ids=lambda flag: flag.dest)
def test_an_option_of_a_miner_changes_its_tuples(make_opt, flag):
    words = flag.dest.removeprefix("miner_")
    miner = max((name for name in batchminer.MINERS if words.startswith(f"{name}_")), key=len)
    near = F.normalize(torch.randn(24, 8) + 2 * torch.eye(8)[0], dim=1)
    labels = torch.arange(24) // 4

    def outcome(*argv):
        mine = batchminer.select(miner, make_opt("--batch_mining", miner, *argv))
        torch.manual_seed(1)
        return [column for _ in range(20) for column in mine(near, labels)]

    assert same(outcome(), outcome())
    value = MINER_VALUES.get(flag.dest) or changed(flag)
    assert not same(outcome(), outcome(flag.name, *value))


ALL = ["--diva_features", *runs.FOUR, "dc", "imrot", "invariantspread", "--diva_decorrelations",
       "selfsimilarity-discriminative"]
CORESET = ["--data_sampler", "d2_coreset"]
TWICE = ["--n_epochs", 2]
# The options that shape training: {name: (value, options beside it)}; by default ALL.
SHAPING = {
    "n_epochs": ([2], []),
    "bs": ([4], []),
    "lr": ([2e-3], []),
    "fc_lr": ([0.02], []),
    "decay": ([0.5], []),
    "optim": (["sgd"], []),
    "use_sgd": ([], []),
    "scheduler": (["exp"], TWICE),
    "gamma": ([0.5], [*TWICE, "--tau", 1]),
    "tau": ([1], TWICE),
    "warmup_epochs": ([1], []),
    "clip_grad": ([1e-3], []),
    "freeze_backbone": ([1], []),
    "seed": ([2], []),
    "precision": (["bf16"], []),
    "train_val_split": ([0.5], ["--bs", 4]),
    "train_val_split_by_class": ([], ["--bs", 4, "--train_val_split", 0.5]),
    "val_fold": ([1], ["--bs", 4, "--val_folds", 2, "--val_fold", 0]),
    "augmentation": (["adv"], []),
    "realistic_augmentation": ([], ALL),
    "realistic_main_augmentation": ([], []),
    "crop_size": ([34], []),
    "resize": ([40], ALL),
    "data_sampler": (["random_semi_class"], []),
    "samples_per_class": ([4], []),
    "data_batchmatch_bigbs": ([8], CORESET),
    "data_batchmatch_ncomps": ([1], ["--data_sampler", "distmoment_batchmatch"]),
    "data_storage_no_update": ([], [*CORESET, *TWICE]),
    "data_idx_full_prec": ([], [*CORESET, *TWICE]),
    "data_mb_mom": ([0.9], [*CORESET, *TWICE]),
    "data_mb_lr": ([0.1], [*CORESET, *TWICE, "--data_mb_mom", 0.9]),
    "data_sampler_lowproj_dim": ([1], CORESET),
    "data_sim_measure": (["cosine"], ["--data_sampler", "full_greedy_coreset", "--arch",
                                      "squeezenet1_1"]),
    "data_d2_coreset_lambda": ([20], CORESET),
    "batch_mining": (["semihard"], []),
    "loss": (["triplet"], []),
    "diva_features": (["discriminative", "shared"], []),
    "diva_ssl": (["moco"], ALL),
    "diva_sharing": (["full"], [*ALL, "--samples_per_class", 1]),
    "diva_alpha_ssl": ([0.5], ALL),
    "diva_alpha_shared": ([0.5], ALL),
    "diva_alpha_intra": ([0.5], ALL),
    "diva_decorrelations": (["shared-intra"], ALL),
    "diva_rho_decorrelation": ([10], ALL),
    "diva_decorrnet_dim": ([8], ALL),
    "diva_decorrnet_lr": ([1e-3], ALL),
    "diva_moco_momentum": ([0.5], ALL),
    "diva_moco_temperature": ([0.5], ALL),
    "diva_moco_trainable_temp": ([], ALL),
    "diva_moco_temp_lr": ([0.1], [*ALL, "--diva_moco_trainable_temp"]),
    "diva_moco_n_key_batches": ([1], ALL),
    "diva_moco_lower_cutoff": ([0.01], ALL),
    "diva_moco_upper_cutoff": ([0.1], [*ALL, "--diva_moco_lower_cutoff", 0.01]),
    "diva_dance": (["weighted"], ALL),
    "diva_fixed": ([], [*ALL, "--diva_moco_lower_cutoff", 0.01]),
    "diva_instdiscr_temperature": ([0.5], ALL),
    "diva_dc_update_f": ([1], [*ALL, *TWICE]),
    "diva_dc_ncluster": ([3], ALL),
}
# Those that training's numbers do not depend on, or that are tested where they act.
ELSEWHERE = {
    "device", "gpu", "channels_last", "compile", "deterministic", "resume", "evaluate_only",
    "checkpoint", "dataset", "source_path", "kernels", "cache", "skip_broken_images", "check_data",
    "val_folds", "data_gc_softened", "pml_miner_args", "diva_intra", "ema"}


def test_a_softened_coreset_has_other_images(make_opt):
    embeddings = torch.randn(120, 6)

    def batches(*argv):
        opt = make_opt("--data_sampler", "greedy_coreset", "--bs", 12, *argv)
        sampler = datasampler.select(opt.data_sampler, opt,
                                     SimpleNamespace(labels=np.arange(120) // 6))
        sampler.fill(embeddings)
        return list(sampler)

    assert batches() == batches() != batches("--data_gc_softened")


def test_the_table_has_every_option():
    groups = {flag.dest for flag in (*TRAINING, *DATASETS, *DATASAMPLER, *DIVA)} - IDLE
    ours = {*ADDED, *(name.removeprefix("--") for name in FROZEN)}      # not a user's own
    assert groups & ours | {"loss", "batch_mining"} == SHAPING.keys() | ELSEWHERE - {
        "pml_miner_args"}
    assert not SHAPING.keys() & ELSEWHERE
    assert len(FLAGS["diva_intra"].accepts) == 1    # nothing to choose from yet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(*argv) -> all that training has made, after --n_epochs epochs of two batches."""
    tree = tmp_path_factory.mktemp("options")
    trees.class_folders(tree / "data" / "tiny", n_classes=8, n_images=4)

    @functools.cache
    def trained(*argv):
        training = runs.assembled(tree, *SMALLEST, *argv)
        seen, _ = train(training, training.opt.n_epochs, alone=False)
        numbers = itertools.chain(
            *(step.losses.values() for step in seen), training.network.state_dict().values(),
            training.objective.state_dict().values(),
            filter(torch.is_tensor, training.sampler.state_dict().values()))
        return [copy.deepcopy(number) for number in numbers]

    return trained


@pytest.mark.parametrize("name", SHAPING)
def test_an_option_changes_the_training(trained, name):
    value, beside = SHAPING[name]
    assert not same(trained(*beside), trained(*beside, f"--{name}", *value))


def test_without_a_change_of_options_a_training_repeats(trained):
    assert same(trained.__wrapped__(*ALL), trained.__wrapped__(*ALL))
