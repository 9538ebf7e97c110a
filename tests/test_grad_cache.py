"""`--grad_cache_chunk`: the step of the whole batch, in less memory."""

import pytest
import torch

import criteria
from tests import runs
from tests.test_training_contract import named_parameters
from utilities.errors import UserError

FROZEN = ("--arch", "resnet18_frozen_normalize", "--diva_features", *criteria.FEATURES,
          "--optim", "sgd", "--lr", 1e-3)


def after_an_epoch(tmp_path, *argv):
    """Everything that learns, and the epoch's mean terms."""
    training = runs.assembled(tmp_path, *FROZEN, *argv)
    training.begin()
    training.train_epoch(0)
    return ({name: value.detach() for name, value in named_parameters(training).items()},
            training.monitor.means)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_train_as_the_whole_batch_does(tmp_path, chunk):
    whole, terms = after_an_epoch(tmp_path)
    parts, terms_of_parts = after_an_epoch(tmp_path, "--grad_cache_chunk", chunk)
    assert terms_of_parts == pytest.approx(terms, rel=1e-4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_chunks_keep_the_graph_of_one_chunk(tmp_path):
    def kept(*argv):
        """Numbers that autograd holds after the forward pass."""
        network = runs.assembled(tmp_path, *FROZEN, *argv).network
        held = 0

        def count(tensor):
            nonlocal held
            held += tensor.numel() if tensor.shape[:1] == (2,) or tensor.shape[:1] == (8,) else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(torch.rand(8, 3, 32, 32))
        return held

    assert kept("--grad_cache_chunk", 2) < kept() / 10


def test_it_needs_fixed_statistics(tmp_path):
    with pytest.raises(UserError, match=r"--grad_cache_chunk: 2 given, .* --arch .*_frozen"):
        runs.assembled(tmp_path, "--grad_cache_chunk", 2)
