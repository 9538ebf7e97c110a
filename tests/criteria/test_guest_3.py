"""Guests of pytorch-metric-learning 3. Where version 2 is installed, the tests of this file run in
another process, on a stand-in that has the documented interface."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import batchminer
import criteria
from tests import pml_3, runs
from utilities.errors import UserError

pytest.importorskip("pytorch_metric_learning")
IS_3 = importlib.metadata.version("pytorch-metric-learning").startswith("3.")
on_3 = pytest.mark.skipif(not IS_3, reason="version 2 is installed")
ROOT = Path(__file__).parent.parent.parent
D, CLASSES = 8, 6
LABELS = torch.arange(16) // 4


@pytest.mark.skipif(IS_3, reason="version 3 is installed")
def test_version_3_works_as_its_documentation_says(tmp_path):
    pml_3.install(tmp_path)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp",
         str(tmp_path / "inner"), __file__], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0 and " passed, 1 skipped" in done.stdout, done.stdout


@pytest.fixture
def select(make_opt):
    def select(name, arguments=None, *argv, miner=None):
        given = ["--pml_loss_args", json.dumps(arguments)] if arguments else []
        opt = make_opt("--loss", f"pml:{name}", "--embed_dim", D, "--bs", 16,
                       "--samples_per_class", 4, *given, *argv)
        return criteria.select(opt.loss, opt, n_classes=CLASSES,
                               batchminer=batchminer.select(miner, opt) if miner else None)

    return select


@pytest.fixture
def x():
    return F.normalize(torch.randn(16, D), dim=1).requires_grad_()


@on_3
def test_a_loss_is_computed_with_the_defaults_of_the_version(select, x):
    from pytorch_metric_learning import losses

    assert select("TripletMarginLoss").loss.margin == 0.2
    for name, arguments in (("TripletMarginLoss", {"margin": 0.4}), ("ContrastiveLoss", {})):
        assert select(name, arguments)(x, LABELS).equal(
            getattr(losses, name)(**arguments)(x, LABELS))


@on_3
@pytest.mark.parametrize("miner", ["distance", "npair", "lifted", "intra_random"])
@pytest.mark.parametrize("name", ["TripletMarginLoss", "ContrastiveLoss"])
def test_it_takes_the_tuples_of_our_miners(select, x, name, miner):
    criterion = select(name, {}, "--batch_mining", miner, miner=miner)
    loss = criterion(x, LABELS)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


@on_3
@pytest.mark.parametrize("miner", ["TripletMarginMiner", "MultiSimilarityMiner"])
def test_it_takes_the_named_tuples_of_its_miners(select, x, miner):
    from pytorch_metric_learning import losses, miners

    criterion = select("ContrastiveLoss", {}, "--batch_mining", f"pml:{miner}",
                       miner=f"pml:{miner}")
    mined = getattr(miners, miner)()(x, LABELS)
    assert len(mined[0]) and criterion(x, LABELS).equal(losses.ContrastiveLoss()(x, LABELS, mined))
    assert all(rows.dtype == torch.int64 for rows in criterion.batchminer.raw(x, LABELS))


@on_3
@pytest.mark.parametrize("miner", ["TripletMarginMiner", "MultiSimilarityMiner"])
def test_our_losses_take_triplets_of_its_miners(make_opt, x, miner):
    opt = make_opt("--loss", "triplet", "--batch_mining", f"pml:{miner}", "--embed_dim", D)
    a, p, n, valid = batchminer.select(opt.batch_mining, opt)(x, LABELS)
    assert valid.all() and len(valid) > 1 and {a.dtype, p.dtype, n.dtype} == {torch.int64}
    assert (LABELS[a] == LABELS[p]).all() and (LABELS[a] != LABELS[n]).all() and (a != p).all()


@on_3
def test_proxies_learn(select, x):
    criterion = select("ProxyNCALoss", {"lr": 0.01})
    weight, = criterion.parameters()
    assert weight.shape == (CLASSES, D) and criterion.lr == 0.01
    criterion(x, LABELS).backward()
    assert weight.grad.any()


@on_3
def test_a_memory_survives_a_checkpoint_which_holds_nothing_private(select, x, tmp_path):
    arguments = {"loss": "pml:ContrastiveLoss", "memory_size": 40}
    criterion, resumed = (select("CrossBatchMemory", arguments) for _ in range(2))
    for _ in range(3):
        narrow = F.normalize(1 + 0.1 * torch.randn(16, D), dim=1)
        criterion(narrow.requires_grad_(), LABELS).backward()
    torch.save(criterion.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert not [name for name in state["_extra_state"] if "._" in name]
    resumed.load_state_dict(state)
    assert resumed(x, LABELS).equal(criterion(x, LABELS))


@on_3
def test_arguments_hold_objects_and_mistakes_are_named(select, x):
    criterion = select("TripletMarginLoss", {
        "distance": {"pml:LpDistance": {"normalize_embeddings": False}},
        "reducer": "pml:MeanReducer", "embedding_regularizer": "pml:LpRegularizer"})
    assert criterion(x, LABELS).isfinite() and not criterion.loss.distance.normalize_embeddings
    for name, arguments, line in (
            ("_Hidden", {}, "--loss: unknown 'pml:_Hidden'"),
            ("ContrastiveLoss", {"margin": 1}, "--pml_loss_args: pml:ContrastiveLoss: unknown "
                                               "'margin'")):
        with pytest.raises(UserError, match=f"^{line}") as error:
            select(name, arguments)
        assert "accepted: " in str(error.value) and "Hidden" not in str(error.value)[40:]


@on_3
def test_a_run_trains_and_resumes(tmp_path):
    folder = runs.train(tmp_path, "--loss", "pml:TripletMarginLoss", "--batch_mining",
                        "pml:MultiSimilarityMiner", "--evaluation_metrics", "e_recall@1")
    runs.resume(folder, "--n_epochs", 2)
    assert len(runs.rows(folder, "Train_loss")) == 2
