"""`architectures.load`: from a checkpoint to a network, in one step."""

from argparse import Namespace

import pytest
import torch

import architectures
from tests import runs
from utilities.errors import UserError

ARCH = ["--arch", "shufflenet_v2_x0_5_normalize", "--not_pretrained", "--crop_size", 32,
        "--embed_dim", 16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs.train(tmp_path_factory.mktemp("run"), "--diva_features", "discriminative", "shared")


@pytest.mark.parametrize("name", ["checkpoint_last", "checkpoint_discriminative_e_recall@1"])
def test_a_checkpoint_of_a_run_gives_its_network_and_options(folder, name):
    network, options = architectures.load(folder / f"{name}.pth.tar")
    assert not network.training
    assert (options.dataset, options.diva_features) == ("tiny", ["discriminative", "shared"])
    saved = torch.load(folder / f"{name}.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[key]) for key, tensor in network.state_dict().items())
    embeddings, _ = network(torch.rand(2, 3, 32, 32))
    assert {key: rows.shape for key, rows in embeddings.items()} == {
        "discriminative": (2, 16), "shared": (2, 16)}


def test_a_file_without_options_needs_them(tmp_path, make_opt):
    opt = make_opt(*ARCH)
    network = architectures.select(opt.arch, opt)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "file")
    with pytest.raises(UserError, match="does not hold the options of its run"):
        architectures.load(tmp_path / "file")
    again, options = architectures.load(tmp_path / "file", opt)
    assert options is opt and again.state_dict().keys() == network.state_dict().keys()


def test_options_that_contradict_the_checkpoints_are_refused(folder):
    path = folder / "checkpoint_last.pth.tar"
    _, options = architectures.load(path)
    other = Namespace(**vars(options) | {"embed_dim": 32, "checkpoint": str(path)})
    with pytest.raises(UserError, match=r"^--embed_dim: 32 given, but .* trained with 16; acc"):
        architectures.load(path, other)
