"""Every name of the registries through two real steps of the epoch loop, on tiny images."""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import batchminer
import criteria
import datasampler
import diva_main
from tests import runs, trees

# The smallest of torchvision's networks, without BatchNorm; TINY's has it.
SMALLEST = ("--arch", "squeezenet1_1_normalize")
FITTING = [(loss, miner) for loss in criteria.LOSSES for miner in (
    [name for name, kind in batchminer.TUPLES.items() if kind == criteria.TAKES[loss]]
    if loss in criteria.TAKES else [None])]
ALL = tuple(criteria.FEATURES)
# These learn on the trunk; their heads stay a random projection of it.
ON_TRUNK = [name for name in ALL if criteria.needs([name], "trunk alone")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six training classes of three images: two batches of eight an epoch."""
    folder = tmp_path_factory.mktemp("contract")
    trees.class_folders(folder / "data" / "tiny", n_classes=12, n_images=3)
    return folder


class Seen(NamedTuple):
    """One training step, before its gradients are used."""

    losses: dict[str, Tensor]
    total: Tensor
    embeddings: dict[str, Tensor]
    alone: dict[str, dict[str, Tensor | None]]  # each loss's own gradient in the network, if asked
    gradients: dict[str, Tensor | None]         # the total's, in all that may learn


def named_parameters(training: diva_main.Training) -> dict[str, Tensor]:
    """All that may learn: of the network by its own names, of criteria below the feature's."""
    criteria_of = {f"{feature.name}: {name}": parameter for feature in training.objective
                   for name, parameter in feature.criterion.named_parameters()}
    return dict(training.network.named_parameters()) | criteria_of


def train(training: diva_main.Training, n_epochs: int = 1, *,
          alone: bool = True) -> tuple[list[Seen], dict[str, Tensor]]:
    """Epochs of the real loop; what its steps saw, and all that may learn as it was at first."""
    seen, losses, heads, start = [], {}, {}, {}
    network, scaling = training.network, training.scaling

    def keep_loss(feature):
        original = feature.loss

        def loss(step):
            heads.update(step.embeddings)
            losses[feature.name] = original(step)
            return losses[feature.name]

        feature.loss = loss

    def backward(total, optimiser):
        learned = named_parameters(training)
        if not start:
            start.update((name, value.detach().clone()) for name, value in learned.items())
        names = [name for name, value in network.named_parameters() if value.requires_grad]
        each = {name: dict(zip(names, torch.autograd.grad(
            loss, [learned[n] for n in names], retain_graph=True, allow_unused=True), strict=True))
            for name, loss in losses.items()} if alone else {}
        original_backward(total, optimiser)
        seen.append(Seen({name: loss.detach() for name, loss in losses.items()}, total.detach(),
                         {name: head.detach() for name, head in heads.items()}, each, {
            name: None if value.grad is None else value.grad.clone()
            for name, value in learned.items()}))

    for feature in training.objective:
        keep_loss(feature)
    original_backward, scaling.backward = scaling.backward, backward
    training.begin()
    for epoch in range(n_epochs):
        training.train_epoch(epoch)
    return seen, start


def taught(training: diva_main.Training, feature) -> set[str]:
    """Names of the network's parameters that the feature's loss must move, at least one."""
    names = [name for name, _ in training.network.named_parameters()]
    heads = {head: {f"model.last_linear.{head}.weight", f"model.last_linear.{head}.bias"}
             for head in training.network.heads}
    if feature.name in ON_TRUNK:
        return set(names).difference(*heads.values())
    if feature.name in heads:
        return heads[feature.name]
    return set().union(*(heads[head] for direction in feature.criterion.directions
                         for head in direction.split("-")))


def assert_it_learns(training: diva_main.Training, n_epochs: int = 1) -> list[Seen]:
    seen, start = train(training, n_epochs)
    assert len(seen) == 2 * n_epochs
    for step in seen:
        assert step.total.isfinite()
        for feature in training.objective:
            loss, taught_here = step.losses[feature.name], taught(training, feature)
            assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
            moved = {name for name, gradient in step.alone[feature.name].items()
                     if gradient is not None and gradient.any()}
            assert moved & taught_here or not loss, feature.name
            strangers = {name for name in moved if "last_linear" in name} - taught_here
            assert not strangers, f"{feature.name} moves {strangers}"
        for name, gradient in step.gradients.items():
            assert gradient is None or gradient.isfinite().all(), name
        backbone = [g for name, g in step.gradients.items() if "last_linear" not in name]
        assert any(g is not None and g.any() for g in backbone) or not step.total
    for feature in training.objective:
        assert any(step.losses[feature.name] for step in seen), f"{feature.name} learns nothing"
    optimised = {id(p) for group in training.optimiser.param_groups for p in group["params"]}
    for name, value in named_parameters(training).items():
        assert value.isfinite().all(), name
        still = any(name.startswith(f"model.last_linear.{feature}.") for feature in ON_TRUNK)
        assert (id(value) in optimised) != still, name
        if still:
            assert all(step.gradients[name] is None for step in seen), name
        assert torch.equal(value, start[name]) == still, name
    return seen


@pytest.mark.parametrize("loss, miner", FITTING)
def test_every_criterion_with_every_miner(tree, loss, miner):
    mining = ("--batch_mining", miner) if miner else ()
    assert_it_learns(runs.assembled(tree, *SMALLEST, "--loss", loss, *mining))


@pytest.mark.parametrize("name", datasampler.SAMPLERS)
def test_every_sampler(tree, name):
    training = runs.assembled(tree, *SMALLEST, "--data_sampler", name)
    assert_it_learns(training)
    stored = training.sampler.state_dict().get("embeddings")
    assert (stored is not None) == (name in datasampler.STORAGE)


def test_a_storage_takes_the_embeddings_of_the_batches_that_pass(tree):
    training = runs.assembled(tree, *SMALLEST, "--data_sampler", "greedy_coreset")
    filled, passed = [], []
    fill, update = training.sampler.fill, training.sampler.update
    training.sampler.fill = lambda embeddings: (fill(embeddings), filled.append(
        training.sampler.state_dict()["embeddings"].clone()))
    training.sampler.update = lambda indices, embeddings: (
        update(indices, embeddings), passed.append((indices, embeddings)))
    seen, _ = train(training)
    before, = filled
    after = training.sampler.state_dict()["embeddings"]
    touched = torch.cat([indices for indices, _ in passed]).unique()
    assert len(passed) == 2 and len(touched) < len(before)
    changed = (before != after).any(1).nonzero().flatten()
    assert changed.equal(touched)
    rows, last = passed[1]
    assert last.equal(seen[1].embeddings["discriminative"]) and not last.requires_grad
    assert all((after[row] == last[rows == row]).all(1).any() for row in rows)


STORAGE_OPTIONS = {
    "updated": [], "--data_storage_no_update": ["--data_storage_no_update"],
    "--data_idx_full_prec": ["--data_idx_full_prec"],
    "--data_mb_mom": ["--data_mb_mom", 0.9, "--data_mb_lr", 0.5]}


def test_how_a_storage_is_kept_up_to_date(tree):
    """After an epoch and the refresh before the second: four different storages."""
    stored = {}
    for name, argv in STORAGE_OPTIONS.items():
        training = runs.assembled(tree, *SMALLEST, "--data_sampler", "d2_coreset", *argv)
        fills, fill = [], training.sampler.fill
        training.sampler.fill = lambda e, fill=fill, fills=fills: (fill(e), fills.append(e))
        assert_it_learns(training, 2)
        assert len(fills) == (2 if name == "--data_idx_full_prec" else 1)
        stored[name] = training.sampler.state_dict()["embeddings"]
        if name.startswith(("--data_storage", "--data_idx")):
            assert stored[name].equal(fills[-1])
    values = list(stored.values())
    assert not any(a.equal(b) for i, a in enumerate(values) for b in values[:i])


FEATURES = {
    **{name: ["--diva_features", name] for name in ALL},
    "three": ["--diva_features", *runs.FOUR[:3]],
    "four": ["--diva_features", *runs.FOUR],
    "all of them": ["--diva_features", *ALL],
    "decorrelated": ["--diva_features", *ALL, "--diva_decorrelations", "invariantspread-shared",
                     "discriminative-intra", "--diva_rho_decorrelation", 10, 500],
    "dc, discriminative": ["--diva_features", "dc", "discriminative"],
    "imrot, dc": ["--diva_features", "imrot", "dc"],
    "invariantspread, selfsimilarity": ["--diva_features", "invariantspread", "selfsimilarity"],
    "moco": ["--diva_features", *runs.FOUR, "--diva_ssl", "moco"],
    "moco, any length": ["--diva_features", "selfsimilarity", "--diva_ssl", "moco", "--arch",
                         "squeezenet1_1"],
    "learned temperature": ["--diva_features", *runs.FOUR, "--diva_moco_trainable_temp"],
    "learned temperature of moco": ["--diva_features", "selfsimilarity", "--diva_ssl", "moco",
                                    "--diva_moco_trainable_temp"],
    "as in the paper": ["--diva_features", *runs.FOUR, "--diva_fixed"],
    "ensemble": ["--diva_features", "discriminative", "ensemble_1", "ensemble_2", "ensemble_3",
                 "--diva_decorrelations", "ensemble_1-discriminative", "ensemble_2-ensemble_3"],
    "weighted exponentials": ["--diva_features", *runs.FOUR, "--diva_dance", "weighted"],
    "standard": ["--diva_features", *runs.FOUR, "--diva_sharing", "standard"],
    "full": ["--diva_features", *runs.FOUR, "--diva_sharing", "full"],
    "BatchNorm": ["--diva_features", *ALL, "--arch", "shufflenet_v2_x0_5_normalize"],
    "frozen": ["--diva_features", *ALL, "--arch", "shufflenet_v2_x0_5_frozen_normalize"],
    "proxies": ["--diva_features", "discriminative", "selfsimilarity", "dc", "imrot",
                "invariantspread", "--loss", "proxynca"],
    "storage": ["--diva_features", *ALL, "--data_sampler", "distmoment_batchmatch"],
    "sgd, bf16": ["--diva_features", *ALL, "--optim", "sgd", "--precision", "bf16"],
    "four per class": ["--diva_features", *runs.FOUR, "--samples_per_class", 4,
                       "--loss_margin_beta", 0.8],
    "boundaries": ["--diva_features", *runs.FOUR, "--loss", "snr", "--loss_snr_beta", 0.5],
    "constant boundary": ["--diva_features", *runs.FOUR, "--loss_margin_beta_constant",
                          "--loss_margin_nu", 0.1],
    **{f"shared and intra, {loss}": ["--diva_features", *runs.FOUR, "--loss", loss]
       for loss, kind in criteria.TAKES.items() if kind == "triplets"},
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_alone_and_together(tree, name):
    assert_it_learns(runs.assembled(tree, *SMALLEST, *FEATURES[name]))


GUESTS = {
    "pairs": ["--loss", "pml:ContrastiveLoss"],
    "tuples of a miner here": ["--loss", "pml:TripletMarginLoss", "--batch_mining", "semihard"],
    "sets of a miner here": ["--loss", "pml:CircleLoss", "--batch_mining", "lifted"],
    "its miner": ["--loss", "pml:MultiSimilarityLoss", "--batch_mining",
                  "pml:MultiSimilarityMiner", "--pml_miner_args", json.dumps({"epsilon": 0.5})],
    "its miner, a loss here": ["--loss", "triplet", "--batch_mining", "pml:TripletMarginMiner"],
    "proxies": ["--loss", "pml:ProxyAnchorLoss", "--pml_loss_args", json.dumps({"lr": 0.01})],
    "memory": ["--loss", "pml:CrossBatchMemory", "--pml_loss_args",
               json.dumps({"loss": "pml:ContrastiveLoss", "memory_size": 24})],
    "four features": ["--loss", "pml:MarginLoss", "--pml_loss_args",
                      json.dumps({"learn_beta": True}), "--diva_features", *runs.FOUR,
                      "--batch_mining", "distance"],
}


@pytest.mark.parametrize("name", GUESTS)
def test_guests_of_pytorch_metric_learning(tree, name):
    pytest.importorskip("pytorch_metric_learning")
    assert_it_learns(runs.assembled(tree, *SMALLEST, *GUESTS[name]))


def test_the_total_is_the_weighted_sum_of_the_objective(tree):
    """SPEC 5, written out: alphas, one rho for each pair, c from its formula."""
    training = runs.assembled(
        tree, *SMALLEST, "--diva_features", *ALL, "--diva_alpha_ssl", 0.2, "--diva_alpha_shared",
        0.5, "--diva_alpha_intra", 0.7, "--diva_decorrelations", "shared-discriminative",
        "discriminative-shared", "intra-selfsimilarity", "--diva_rho_decorrelation", 3, 50, 700)
    (step, _), start = train(training)

    def c(source, target):
        w1, b1, w2, b2 = (start[f"sep. loss: regressors.{source}-{target}.{name}"]
                          for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        x, y = (e / e.norm(dim=1, keepdim=True) for e in (step.embeddings[source],
                                                          step.embeddings[target]))
        r = (x @ w1.T + b1).clamp(min=0) @ w2.T + b2
        return -((y * r / r.norm(dim=1, keepdim=True)) ** 2).mean()

    alphas = {"selfsimilarity": 0.2, "shared": 0.5, "intra": 0.7}
    expected = (sum(alphas.get(name, 1) * step.losses[name] for name in ALL)
                + 3 * c("shared", "discriminative") + 50 * c("discriminative", "shared")
                + 700 * c("intra", "selfsimilarity"))
    torch.testing.assert_close(step.total, expected)


def test_features_see_training_images_as_training_augments_them(tree):
    """Each once, in file order, beside the batches that the sampler draws."""
    training = runs.assembled(tree, *SMALLEST, "--diva_features", "dc")
    run = training.between_steps
    assert run.training_images.dataset is training.splits["evaluation_train"]
    assert run.network is training.network and run.training is training.loader
    assert run.optimiser is training.optimiser
    indices = torch.cat([batch.indices for batch in run.training_images.epoch(0)])
    assert indices.tolist() == list(range(len(training.training_set)))


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5_normalize",
                                  "shufflenet_v2_x0_5_frozen_normalize"])
def test_clustering_leaves_the_mode_of_every_batchnorm_as_it_was(tree, arch):
    """A frozen one stays in evaluation mode, the others go back to training."""
    training = runs.assembled(tree, *SMALLEST, "--arch", arch, "--diva_features", "dc")
    network = training.network.train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    statistics = [norm.running_mean.clone() for norm in norms]
    training.objective[0].before_epoch(training.between_steps, 0)
    assert network.training and norms
    assert {norm.training for norm in norms} == {"frozen" not in arch}
    assert all(norm.running_mean.equal(old) and norm.num_batches_tracked == 0
               for norm, old in zip(norms, statistics, strict=True))


WALKS = {
    "four features": ["--diva_features", *runs.FOUR],
    "all of them": ["--diva_features", *ALL, "--arch", "shufflenet_v2_x0_5_frozen_normalize"],
    "sgd, bf16": ["--diva_features", *runs.FOUR, "--optim", "sgd", "--precision", "bf16"],
    "learned temperature": ["--diva_features", *runs.FOUR, "--diva_moco_trainable_temp",
                            "--diva_fixed", "--diva_sharing", "full"],
    "storage": ["--data_sampler", "d2_coreset", "--data_mb_mom", 0.5],
    "recipe": ["--diva_features", *runs.FOUR, "--optim", "adamw", "--warmup_epochs", 1,
               "--clip_grad", 0.1, "--ema", 0.9],
    "heads alone": ["--diva_features", *ALL, "--freeze_backbone", 1],
    "frozen, bf16": ["--diva_features", *runs.FOUR, "--arch", "resnet18_frozen_normalize",
                     "--precision", "bf16", "--channels_last"],
}
GPU_WALKS = WALKS | {
    "cache": [*WALKS["frozen, bf16"], "--cache", "gpu"],
    "fp16": ["--diva_features", *runs.FOUR, "--precision", "fp16"],
}


def steps_watched(training: diva_main.Training, forbidden, epoch: int = 0) -> int:
    """Walks an epoch, each step in the context `forbidden()` from its batch's arrival on."""
    walks, draw, n_steps = [], training.loader.epoch, 0

    def batches(number):
        nonlocal n_steps
        for batch in draw(number):
            with forbidden():
                yield batch
            n_steps += 1

    def watched(number):
        walks.append(batches(number))
        return walks[-1]

    if not epoch:
        training.begin()
    training.loader.epoch = watched
    try:
        training.train_epoch(epoch)
    finally:
        for walk in walks:
            walk.close()    # leaves the context, also where a step has failed
    training.loader.epoch = draw
    return n_steps


@pytest.mark.parametrize("name", WALKS)
def test_nothing_waits_from_the_batchs_arrival_to_the_end_of_the_step(tree, name, without_waiting):
    training = runs.assembled(tree, *SMALLEST, *WALKS[name])
    assert steps_watched(training, lambda: without_waiting) == 2


@pytest.mark.parametrize("operation", [
    lambda step, _: step.embeddings["shared"].sum().item(), lambda step, _: step.trunk.cpu(),
    lambda step, _: step.trunk[step.batch.labels > 0],
    lambda step, _: float(step.trunk.detach().mean())])
def test_the_check_sees_a_step_that_waits(tree, without_waiting, operation):
    training = runs.assembled(tree, *SMALLEST, *WALKS["four features"])
    training.objective[2].after_step = operation
    with pytest.raises(AssertionError, match=r"waits|moves data"):
        steps_watched(training, lambda: without_waiting)
    torch.ones(2).tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_WALKS)
def test_nothing_waits_on_a_gpu(tree, name):
    training = runs.assembled(tree, *SMALLEST, *GPU_WALKS[name], "--device", "cuda")
    steps_watched(training, contextlib.nullcontext)    # the first steps allocate

    @contextlib.contextmanager
    def forbidden():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    assert steps_watched(training, forbidden, epoch=1) == 2
