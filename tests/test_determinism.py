"""One seed, one machine: the same numbers, whatever has no say in them."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests import runs, trees
from tests.test_layers import ROOT

# Random miners, augmentation of three views, shuffled labels, re-initialised classifiers.
ARGV = ("--diva_features", *runs.FOUR, "dc", "imrot", "--realistic_augmentation",
        "--diva_dc_update_f", 1, "--n_epochs", 2, "--evaltypes", "discriminative",
        "--evaluation_metrics", "e_recall@1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("determinism")
    trees.class_folders(folder / "data" / "tiny", n_classes=8, n_images=8)
    return folder


@pytest.fixture(scope="module")
def first(folder):
    return runs.train(folder, *ARGV)


def weights(folder):
    state = runs.last(folder)
    return {name: value for part in ("state_dict", "objective")
            for name, value in runs.leaves(state[part], part)}


def test_the_same_seed_gives_the_same_numbers(folder, first):
    """Whatever was drawn before in the process."""
    torch.rand(7), np.random.rand(3), random.random()
    assert runs.differences(first, runs.train(folder, *ARGV)) == []


def test_the_objective_draws_apart_from_the_networks_stream(folder):
    """What a network with dropout draws on one process cannot change tuples or classifiers."""
    terms = []
    for seed in (1, 2):
        training = runs.assembled(folder, *ARGV)
        training.begin()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        training.train_epoch(0)
        assert torch.equal(torch.get_rng_state(), before)
        terms.append(training.monitor.means)
    assert terms[0] == terms[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_run(folder, first, workers):
    assert runs.differences(first, runs.train(folder, *ARGV, "--kernels", workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches_and_pixels(folder, workers):
    argv = (*ARGV, "--data_sampler", "random", "--realistic_main_augmentation")
    alone, helped = (runs.assembled(folder, *argv, "--kernels", kernels).loader
                     for kernels in (0, workers))
    try:
        for epoch in (3, 0):
            for one, other in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
                for field in one._fields:
                    assert torch.equal(getattr(one, field), getattr(other, field)), field
    finally:
        helped.close()


def test_metrics_and_plots_do_not_change_the_training(folder, first):
    other = runs.train(folder, *ARGV, "--evaluation_metrics", "nmi", "mAP_r", "--train_metrics",
                       "--log_every", 1, "--plots", "epoch", "--evaltypes", "shared")
    one, two = weights(first), weights(other)
    assert one.keys() == two.keys() and all(runs.same(one[name], two[name]) for name in one)


def test_images_kept_in_memory_are_those_of_the_files(folder, first):
    assert runs.differences(first, runs.train(folder, *ARGV, "--cache", "ram")) == []


def test_another_seed_gives_other_numbers(folder, first):
    one, two = weights(first), weights(runs.train(folder, *ARGV, "--seed", 2))
    trained = [name for name in one if one[name].numel() > 20 and one[name].is_floating_point()]
    assert len(trained) > 50
    same = [name for name in trained if runs.same(one[name], two[name])]
    assert not [name for name in same if name.endswith((".weight", "queue"))], same


@pytest.mark.slow
def test_the_order_of_sets_does_not_change_the_run(tmp_path, folder):
    """Python shuffles it by a seed of its own in each process."""
    folders = []
    for number in range(2):
        words = runs.arguments(folder, *ARGV, "--save_path", tmp_path / str(number))
        subprocess.run([sys.executable, "diva_main.py", *words], cwd=ROOT, check=True,
                       env=os.environ | {"PYTHONHASHSEED": str(number)}, stdout=subprocess.DEVNULL)
        folders += (tmp_path / str(number)).glob("*/*")
    assert runs.differences(*folders) == []


@pytest.mark.gpu
@pytest.mark.parametrize("more", [(), ("--precision", "bf16", "--channels_last", "--cache", "gpu")])
def test_deterministic_gives_the_same_numbers_twice_on_a_gpu(folder, more):
    try:
        one, two = (runs.train(folder, *ARGV, "--device", "cuda", "--deterministic", *more)
                    for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert runs.differences(one, two) == []


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_on_a_gpu_goes_on_where_it_stopped(folder, precision):
    argv = (*ARGV, "--device", "cuda", "--deterministic", "--precision", precision)
    try:
        whole = runs.train(folder, *argv, "--n_epochs", 3)
        folder = runs.train(folder, *argv, "--n_epochs", 2)
        runs.resume(folder, "--n_epochs", 3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert runs.differences(whole, folder) == []
