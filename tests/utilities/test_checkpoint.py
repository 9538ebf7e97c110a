"""Atomic files and states that load without running code."""

import errno
import os
import random

import numpy as np
import pytest
import torch

from utilities import checkpoint
from utilities.errors import RunError, UserError

STATE = {"weights": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["a", "b"], "none": None}


def assert_same(a, b):
    assert a["epoch"] == b["epoch"] and a["names"] == b["names"] and a["none"] is b["none"]
    assert torch.equal(a["weights"], b["weights"])


def test_a_state_comes_back(tmp_path):
    checkpoint.save(tmp_path / "c.pth.tar", STATE)
    assert_same(checkpoint.load(tmp_path / "c.pth.tar"), STATE)
    assert os.listdir(tmp_path) == ["c.pth.tar"]


def test_the_same_state_gives_the_same_bytes(tmp_path):
    checkpoint.save(tmp_path / "a", STATE)
    checkpoint.save(tmp_path / "b", STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_an_interrupted_write_keeps_the_last_whole_file(tmp_path, monkeypatch, moment):
    checkpoint.save(tmp_path / "c", STATE)

    def cut(*_):
        raise Killed

    monkeypatch.setattr(moment, cut)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path / "c", {"epoch": 4})
    monkeypatch.undo()
    assert_same(checkpoint.load(tmp_path / "c"), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_the_next_write_replaces_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_: None)  # as if the process were dead
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        checkpoint.save(tmp_path / "best", STATE)
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 1
    checkpoint.save(tmp_path / "last", STATE)
    assert os.listdir(tmp_path) == ["last"]


def test_bytes_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), rename(*a)))
    checkpoint.save(tmp_path / "c", STATE)
    assert calls == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("write", [lambda path: checkpoint.save(path, {"epoch": 4}),
                                   lambda path: checkpoint.write_text(path, "new")])
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, write):
    checkpoint.save(tmp_path / "c", STATE)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError) as error:
        write(tmp_path / "c")
    monkeypatch.undo()
    assert str(tmp_path / "c") in str(error.value) and "No space left" in str(error.value)
    assert "\n" not in str(error.value)
    assert_same(checkpoint.load(tmp_path / "c"), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_a_disk_that_fills_up_inside_torch_save(tmp_path):
    """The system refuses bytes behind the 100,000th, as a full disk does."""
    resource = pytest.importorskip("resource")
    checkpoint.save(tmp_path / "c", STATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"^cannot write .*too large"):
            checkpoint.save(tmp_path / "c", {"weights": torch.zeros(10**6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(checkpoint.load(tmp_path / "c"), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_equal_checkpoints_are_one_file_on_disk(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    checkpoint.save(paths[1], {"epoch": 1})
    checkpoint.save_same(paths, STATE)
    assert len({path.stat().st_ino for path in paths}) == 1
    checkpoint.save(paths[0], {"epoch": 2})     # a better epoch leaves the others as they were
    assert checkpoint.load(paths[0]) == {"epoch": 2}
    for path in paths[1:]:
        assert_same(checkpoint.load(path), STATE)
    checkpoint.save_same([], STATE)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_without_links_equal_checkpoints_are_a_file_each(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint.save_same([tmp_path / "a", tmp_path / "b"], STATE)
    for name in "ab":
        assert_same(checkpoint.load(tmp_path / name), STATE)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_state_held_between_writes_is_a_copy(tmp_path):
    kept, tensor = checkpoint.LastEpoch(tmp_path / "last", 3), torch.zeros(2)
    for epochs in (1, 2):
        tensor.fill_(epochs)
        kept.save({"tensor": tensor, "epochs": epochs}, epochs)
        assert not (tmp_path / "last").exists()
    tensor.fill_(7)
    kept.flush()
    held = checkpoint.load(tmp_path / "last")
    assert held["epochs"] == 2 and held["tensor"].tolist() == [2, 2]
    kept.save({"tensor": tensor, "epochs": 3}, 3)
    kept.flush()
    assert checkpoint.load(tmp_path / "last")["epochs"] == 3


@pytest.mark.parametrize("due", [True, False])
def test_a_write_that_fails_leaves_the_held_epoch_to_the_next_one(tmp_path, monkeypatch, due):
    last = checkpoint.LastEpoch(tmp_path / "last", 2)
    last.save({"epochs": 1}, 1)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(RunError):
        patch.setattr(os, "fsync", full)
        last.save({"epochs": 2}, 2) if due else last.flush()
    last.flush()
    assert checkpoint.load(tmp_path / "last")["epochs"] == 1


def test_a_folder_that_is_gone_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*No such file"):
        checkpoint.save(tmp_path / "gone" / "c", STATE)


def test_loading_a_missing_file_names_the_flag(tmp_path):
    with pytest.raises(UserError, match=r"^--resume: .* does not exist; accepted"):
        checkpoint.load(tmp_path / "c", flag="--resume")
    with pytest.raises(UserError, match=r"^--checkpoint: .* is no file; accepted"):
        checkpoint.load(tmp_path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^--resume: '/proc/self/mem' cannot be read "
                                        r"\(Input/output error\); accepted: a checkpoint "):
        checkpoint.load("/proc/self/mem", flag="--resume")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    checkpoint.save(tmp_path / "c", STATE)
    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(UserError, match=r"'.*c' cannot be read \(Permission denied\); accepted"):
        checkpoint.load(tmp_path / "c")


def test_a_truncated_file_is_one_clear_line(tmp_path):
    checkpoint.save(tmp_path / "c", STATE)
    whole = (tmp_path / "c").read_bytes()
    for length in [0, 1, 30, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged, cut short") as error:
            checkpoint.load(tmp_path / "cut")
        assert "\n" not in str(error.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_does_nothing(tmp_path, legacy):
    torch.save({"state": Malicious(tmp_path / "pwned")}, tmp_path / "c",
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="holds more than tensors"):
        checkpoint.load(tmp_path / "c")
    assert not (tmp_path / "pwned").exists()


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(()).item()


def test_random_states_survive_a_checkpoint(tmp_path):
    random.gauss(0, 1)  # leaves a second value waiting
    np.random.randn()
    checkpoint.save(tmp_path / "c", checkpoint.RandomState.state_dict())
    expected = draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert draws() != expected
    checkpoint.RandomState.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert draws() == expected


@pytest.mark.gpu
def test_random_state_of_the_runs_own_gpu_survives(tmp_path):
    torch.rand(3, device="cuda")
    assert len(checkpoint.RandomState.state_dict()["cuda"]) == 1
    checkpoint.save(tmp_path / "c", checkpoint.RandomState.state_dict())
    expected = torch.rand(3, device="cuda")
    checkpoint.RandomState.load_state_dict(checkpoint.load(tmp_path / "c", map_location="cuda"))
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_text_is_utf8_and_whole(tmp_path):
    checkpoint.write_text(tmp_path / "ß.txt", "größer\n")
    assert (tmp_path / "ß.txt").read_bytes() == "größer\n".encode()
