"""What a run says of the machine and the versions it used."""

import subprocess

import numpy as np
import pytest
import torch

from utilities import environment


def test_versions_are_those_in_use():
    told = environment.describe()
    assert told["torch"] == torch.__version__
    assert told["faiss"].split()[0] in ("faiss-gpu", "faiss-cpu")
    assert told.keys() >= {"python", "torchvision", "CUDA", "GPU", "git commit"}
    assert all(isinstance(value, str) and value for value in told.values())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """git(...) in a repository with one commit, which passes for this code's."""
    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c",
                               "user.email=a@b", *words], check=True, capture_output=True,
                              text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return git


def test_the_commit_is_named_and_whether_files_differ_from_it(repository, tmp_path):
    head = repository("rev-parse", "HEAD")
    assert environment.describe()["git commit"] == head
    (tmp_path / "file").write_text("two")
    assert environment.describe()["git commit"] == f"{head} with uncommitted changes"


def test_a_copy_without_git_says_unknown_also_inside_another_repository(repository, tmp_path,
                                                                        monkeypatch):
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path / "copy")
    assert environment.describe()["git commit"] == "unknown"
    monkeypatch.setenv("PATH", "")      # no git at all
    assert environment.describe()["git commit"] == "unknown"


def test_there_is_at_least_one_core():
    assert 1 <= environment.available_cores() <= np.iinfo(np.int32).max


def test_what_another_program_says_of_its_processes_does_not_count(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert environment.n_local_processes() == environment.n_processes() == 1
