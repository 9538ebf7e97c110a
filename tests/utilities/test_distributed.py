"""How batches and data sets are shared. Whole runs: `tests/test_several_processes.py`."""

import os
import sys

import pytest
import torch
import torch.distributed as dist

from datasets.loader import InOrder, Shares
from utilities import distributed, environment, terminal
from utilities.distributed import ALONE, Processes
from utilities.errors import RunError, UserError
from utilities.interrupt import Interrupted

SIZES = range(1, 10)


def processes(size: int) -> list[Processes]:
    """All of a run; without a store they can say what is theirs, not communicate."""
    return [Processes(None, rank, size) for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [1, 3])
def test_shares_of_a_batch_are_gathered_in_its_order(size, share):
    """Halves of a share are parts of the batch's halves."""
    n = 2 * size * share
    rows = torch.tensor([each.rows(n) for each in processes(size)])         # (size, 2 * share)
    gathered = rows.view(size, 2, share).transpose(0, 1).reshape(-1)        # as `gather_rows`
    assert gathered.tolist() == list(range(n))
    assert (rows[:, :share] < n // 2).all() and (rows[:, share:] >= n // 2).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 20])
def test_blocks_side_by_side_begin_with_every_image_in_order(size, n):
    length = -(-n // size)
    whole = torch.full((size, length), -1)
    for rank, each in enumerate(processes(size)):
        block = each.block(n)
        assert 0 < len(block) <= length
        whole[rank, :len(block)] = torch.tensor(block)
    assert whole.flatten()[:n].tolist() == list(range(n))


@pytest.mark.parametrize("size", SIZES)
def test_an_image_has_the_seed_that_one_process_gives_it(size):
    n, batch = 23, 8
    alone = dict(pair for pairs in InOrder(n, batch, 5, ALONE) for pair in pairs)
    for each in processes(size):
        of_block = InOrder(n, batch, 5, each)
        batches = list(of_block)
        assert [index for pairs in batches for index, _ in pairs] == list(each.block(n))
        assert len(of_block) == len(batches) and max(map(len, batches)) <= max(1, batch // size)
        assert all(alone[index] == seed for pairs in batches for index, seed in pairs)


def test_a_share_of_a_batch_keeps_the_seeds_of_its_slots():
    class Sampler:
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            yield from ([9, 8, 7, 6], [1, 1, 2, 3])

    whole = list(Shares(Sampler(), 3, ALONE))
    for each in processes(2):
        shares = Shares(Sampler(), 3, each)
        assert list(shares) == [[pairs[row] for row in each.rows(4)] for pairs in whole]
        assert list(shares.drawn) == [[9, 8, 7, 6], [1, 1, 2, 3]]


@pytest.mark.parametrize("sizes", [[], [3], [10], [3, 3, 3, 3, 3], [25, 1, 9, 1], [1] * 20])
def test_buckets_hold_every_gradient_once_and_in_order(monkeypatch, sizes):
    monkeypatch.setattr(distributed, "BUCKET", 10)
    tensors = [torch.zeros(size) for size in sizes]
    buckets = list(distributed._buckets(tensors))
    assert [id(tensor) for bucket in buckets for tensor in bucket] == list(map(id, tensors))
    for bucket in buckets:
        n_entries = [tensor.numel() for tensor in bucket]
        assert n_entries and sum(n_entries[:-1]) < 10
        assert bucket is buckets[-1] or sum(n_entries) >= 10


def test_without_torchrun_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "3"), monkeypatch.setenv("WORLD_SIZE", "8")     # of a cluster's job
    assert (environment.rank(), environment.local_rank(), environment.n_processes()) == (0, 0, 1)
    with distributed.join() as found:
        assert found is ALONE
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "x")
    assert not environment.by_torchrun()
    parts = [torch.rand(4, 2), torch.rand(4, 3)]
    assert ALONE.gather(parts) is parts and ALONE.first(lambda: [3]) == [3]


@pytest.mark.parametrize(("error", "status"), [
    (UserError("x"), 2), (RunError("x"), 1), (KeyError("x"), 1), (Interrupted(15), 143),
    (distributed.Ended(7), 7)], ids=lambda value: type(value).__name__)
def test_the_status_by_which_a_process_ends(error, status):
    first_to_end = Processes(dist.HashStore(), 0, 2)
    first_to_end.claim(error)
    assert first_to_end.store.get("end").decode() == f"0 {status}"


def test_only_the_first_process_of_a_run_prints(monkeypatch, capfd):
    for rank, local in ((1, 1), (4, 0)):
        with monkeypatch.context() as patch:
            for name, value in {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": 8,
                                "MASTER_ADDR": "x"}.items():
                patch.setenv(name, str(value))
            patch.setattr("sys.stdout", None), patch.setattr("sys.stderr", None)
            patch.delenv("TQDM_DISABLE", raising=False)
            terminal.prepare()
            print("seen"), print(f"error of {rank}", file=sys.stderr)
            sys.stdout.flush(), sys.stderr.flush()
            assert os.environ["TQDM_DISABLE"] == "1"
            patch.delenv("TQDM_DISABLE")
    assert capfd.readouterr() == ("", "error of 4\n")
