"""What holds for every sampler of the registry."""

import argparse
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import datasampler
from datasampler import BY_CLASS, SAMPLERS, STORAGE
from utilities.errors import UserError


def options(**changes):
    defaults = {"bs": 12, "samples_per_class": 3, "seed": 5, "data_batchmatch_bigbs": 24,
                "data_batchmatch_ncomps": 4, "data_storage_no_update": False,
                "data_idx_full_prec": False, "data_mb_mom": -1, "data_mb_lr": 1.0,
                "data_sampler_lowproj_dim": -1, "data_sim_measure": "euclidean",
                "data_gc_softened": False, "data_d2_coreset_lambda": 1.0}
    return argparse.Namespace(**(defaults | changes))


def judge(embeddings, labels):
    return embeddings.norm(dim=1).mean() + labels.float().mean()


class Judge(torch.nn.Module):
    forward = staticmethod(judge)


def make(name, labels, **changes):
    labels = np.asarray(labels)
    sampler = datasampler.select(name, options(**changes), types.SimpleNamespace(labels=labels))
    sampler.bind(Judge())
    sampler.fill(torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(0)))
    return sampler


def assert_batches(name, labels, *, bs, spc, **changes):
    labels = np.asarray(labels)
    batches = list(make(name, labels, bs=bs, samples_per_class=spc, **changes))
    assert len(batches) == len(labels) // bs
    for batch in batches:
        assert isinstance(batch, list) and len(batch) == bs
        assert all(type(index) is int and 0 <= index < len(labels) for index in batch)
        if name in BY_CLASS:
            classes = labels[batch].reshape(-1, spc)
            assert (classes == classes[:, :1]).all()
        if name == "random_semi_class":
            assert (labels[batch[::2]] == labels[batch[1::2]]).all()
        if name in ("rrandom", "full_greedy_coreset"):
            assert labels[batch[-1]] in labels[batch[:-1]]


BALANCED = np.repeat(np.arange(8), 10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epoch_is_whole_batches_of_valid_indices(name):
    assert_batches(name, BALANCED, bs=12, spc=3)
    assert len(make(name, BALANCED, bs=12)) == 6
    assert make(name, BALANCED).uses_storage == (name in STORAGE)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("labels, changes", [
    ([0] + [1] * 30 + [2] * 5, {"bs": 12, "spc": 3}),                      # a class of one image
    ([0, 1] * 12, {"bs": 24, "spc": 2}),                                   # fewer classes than B/S
    ([0] * 20, {"bs": 8, "spc": 4}),                                       # one class
    (list(range(20)), {"bs": 8, "spc": 2}),                                # one image a class
    (list(range(20)), {"bs": 8, "spc": 1}),                                # S = 1
    ([0, 1, 2, 3] * 6, {"bs": 8, "spc": 8}),                               # B/S = 1
    ([0, 1, 2, 3] * 6, {"bs": 2, "spc": 2}),
    (BALANCED, {"bs": 12, "spc": 3, "data_batchmatch_bigbs": 5000}),       # more than there are
    (BALANCED, {"bs": 80, "spc": 2, "data_batchmatch_bigbs": 80}),         # the whole set
    (BALANCED, {"bs": 12, "spc": 3, "data_batchmatch_ncomps": 1}),
    (BALANCED, {"bs": 12, "spc": 3, "data_gc_softened": True, "data_sim_measure": "cosine"}),
], ids=str)
def test_odd_data_is_handled(name, labels, changes):
    assert_batches(name, labels, **changes)


@pytest.mark.parametrize("name", sorted(STORAGE.keys() - {"criterion_batchmatch"}))
@pytest.mark.parametrize("dimension", [1, 2, 40])
def test_candidates_may_be_compared_under_a_random_map(name, dimension):
    assert_batches(name, BALANCED, bs=12, spc=3, data_sampler_lowproj_dim=dimension)


def test_the_criterion_sees_no_mapped_embeddings():
    with pytest.raises(UserError, match=r"^--data_sampler_lowproj_dim: 4 given, but criterion_batch"
                                        r"match judges whole embeddings; accepted: -1$"):
        make("criterion_batchmatch", BALANCED, data_sampler_lowproj_dim=4)


@pytest.mark.parametrize("name", sorted(STORAGE))
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e4])
def test_equal_embeddings_do_no_harm(name, value):
    sampler = make(name, BALANCED)
    sampler.fill(torch.full((80, 6), value))
    assert all(len(batch) == 12 for batch in sampler)


@settings(max_examples=15, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=16, max_size=40), spc=st.sampled_from([1, 2, 4]),
       bigbs=st.integers(8, 60))
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_labels_make_batches(name, labels, spc, bigbs):
    assert_batches(name, np.unique(labels, return_inverse=True)[1], bs=8, spc=spc,
                   data_batchmatch_bigbs=bigbs)


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_follow_from_seed_and_epoch(name):
    one, two = make(name, BALANCED), make(name, BALANCED)
    epochs = [list(one) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]              # without a call each moves on
    for epoch in (2, 0, 1):
        two.set_epoch(epoch)
        np.random.seed(epoch)
        torch.manual_seed(epoch)
        assert list(two) == epochs[epoch]
    assert list(make(name, BALANCED, seed=6)) != epochs[0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_next_epoch_is_not_the_next_seed_s(name):
    this, other = make(name, BALANCED, seed=5), make(name, BALANCED, seed=6)
    this.set_epoch(1)
    assert list(this) != list(other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_global_random_states_are_left_alone(name):
    sampler = make(name, BALANCED)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    list(sampler)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("name", sorted(STORAGE))
def test_a_storage_must_be_filled_first(name):
    sampler = datasampler.select(name, options(), types.SimpleNamespace(labels=BALANCED))
    sampler.bind(Judge())
    with pytest.raises(RuntimeError, match="storage is empty: call fill"):
        iter(sampler)
    with pytest.raises(RuntimeError, match="storage is empty: call fill"):
        sampler.update(torch.arange(3), torch.zeros(3, 6))


@pytest.mark.parametrize("name", sorted(STORAGE))
def test_batches_of_an_epoch_do_not_depend_on_when_they_are_drawn(name):
    """Prefetching draws ahead of the updates; a snapshot at the epoch's start makes it harmless."""
    ahead, behind = make(name, BALANCED), make(name, BALANCED)
    expected = list(ahead)
    drawn = []
    for batch in behind:
        drawn.append(batch)
        behind.update(torch.tensor(batch), torch.randn(12, 6) * 100)
    assert drawn == expected
    assert list(ahead) != list(behind)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("momentum", [-1, 0.5])
def test_a_resumed_sampler_goes_on_as_if_never_stopped(name, momentum, tmp_path):
    def train(sampler, epochs):
        batches = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            for step, batch in enumerate(sampler):
                batches.append(batch)
                values = torch.Generator().manual_seed(100 * epoch + step)
                sampler.update(torch.tensor(batch), torch.randn(12, 6, generator=values))
        return batches

    whole, stopped = (make(name, BALANCED, data_mb_mom=momentum) for _ in range(2))
    expected = train(whole, range(4))
    begun = train(stopped, range(2))
    torch.save(stopped.state_dict(), tmp_path / "sampler")
    resumed = datasampler.select(name, options(data_mb_mom=momentum),
                                 types.SimpleNamespace(labels=BALANCED))
    resumed.bind(Judge())
    resumed.load_state_dict(torch.load(tmp_path / "sampler", weights_only=True))
    assert begun + train(resumed, range(2, 4)) == expected


def test_the_command_line_s_samplers_are_the_registry_s(make_opt):
    dataset = types.SimpleNamespace(labels=np.repeat(np.arange(60), 4))
    for name in SAMPLERS:
        opt = make_opt("--data_sampler", name, "--bs", 24)
        sampler = datasampler.select(name, opt, dataset)
        assert len(sampler) == 10
    with pytest.raises(UserError, match=r"^--data_sampler: unknown 'clas_random' \(did you mean "
                                        r"'class_random'\?\)"):
        datasampler.select("clas_random", opt, dataset)


@pytest.mark.parametrize("name", SAMPLERS)
def test_example_labels_are_of_batches_that_the_sampler_draws(name):
    """Among many that it draws from two classes, there are such with classes of the same sizes."""
    opt = options(bs=4, samples_per_class=2)
    opt.data_sampler = name
    examples = datasampler.examples(opt, n_classes=2)
    assert ("one class alone" in examples) == (name != "class_random_unique")
    labels = np.arange(30) % 2
    sampler = datasampler.select(name, opt, types.SimpleNamespace(labels=labels))
    sampler.bind(Judge())
    sampler.fill(torch.randn(30, 6))
    drawn = {sizes(labels[batch]) for _ in range(20) for batch in sampler}
    assert {sizes(batch) for batch in examples.values()} <= drawn


def sizes(labels):
    return tuple(sorted(np.unique(labels, return_counts=True)[1].tolist()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_examples_are_whole_batches_of_the_classes_there_are(name, make_opt):
    for n_classes in (1, 5, 1000):
        opt = make_opt("--data_sampler", name, "--samples_per_class", 4)
        for labels in datasampler.examples(opt, n_classes).values():
            assert len(labels) == opt.bs and set(labels) <= set(range(n_classes))
