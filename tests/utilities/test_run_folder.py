"""The folder of a run: its name, and what describes it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilities import run_folder
from utilities.errors import UserError


def test_an_existing_folder_gets_a_number(tmp_path):
    names = [run_folder.create(tmp_path / "new", "cub200", "Run_s0").relative_to(tmp_path / "new")
             for _ in range(3)]
    assert [str(name) for name in names] == ["cub200/Run_s0", "cub200/Run_s0_1", "cub200/Run_s0_2"]


def test_runs_that_start_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: run_folder.create(tmp_path, "cub200", "Run"), range(16)))
    assert len(set(folders)) == 16 and all(folder.is_dir() for folder in folders)


def test_a_save_path_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--save_path: cannot create .*accepted") as error:
        run_folder.create(tmp_path / "file", "cub200", "Run")
    assert "\n" not in str(error.value)


def test_a_read_only_save_path_is_one_clear_line(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"^--save_path: cannot create .*Permission denied"):
        run_folder.create(tmp_path / "new", "cub200", "Run")


@pytest.mark.parametrize("name", ["größer 実験", "x" * 300, "ß" * 200, "a/b", "..", "con?", "x.",
                                  "caf\udce9", "caf\udce9:", "\udce9" * 300])
def test_any_savename_works(tmp_path, name):
    folder = run_folder.create(tmp_path, "cub200", name)
    assert folder.parent == tmp_path / "cub200" and folder.is_dir()
    assert run_folder.create(tmp_path, "cub200", name) != folder


def test_ordinary_names_stay_as_they_are():
    evaltype = "Combined_discriminative_selfsimilarity_shared_intra-0.75-1.25-1.25-1.25"
    assert (run_folder.checkpoint_name(evaltype, "e_recall@1")
            == f"checkpoint_{evaltype}_e_recall@1.pth.tar")


def test_a_name_that_is_no_utf_8_stays_as_it_is(tmp_path):
    assert os.fsencode(run_folder.create(tmp_path, "ti\udcffny", "caf\udce9")) == (
        os.fsencode(tmp_path) + b"/ti\xffny/caf\xe9")


@given(st.lists(st.text(max_size=300), min_size=2, max_size=5, unique=True))
def test_names_stay_different_and_fit_any_file_system(texts):
    names = [run_folder.checkpoint_name(text, "e_recall@1") for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert len(name.encode()) < 250 and not set(name) & set('/\\:*?"<>|\0\n')


def test_options_can_be_read_by_people_and_by_resume(tmp_path):
    options = {"loss": "margin", "tau": [55], "lr": 1e-5, "group": "größer", "wandb_entity": None}
    run_folder.describe(tmp_path, options, {"torch": "2.9.1", "git commit": "unknown"})
    assert json.loads((tmp_path / "options.json").read_text()) == options
    lines = (tmp_path / "Parameter_Info.txt").read_text(encoding="utf-8").split("\n")
    assert {"tau: [55]", "torch: 2.9.1", "git commit: unknown"} < set(lines)


def test_bytes_of_paths_are_described_unchanged(tmp_path):
    for version in ("2.9", "2.10"):
        run_folder.describe(tmp_path, {"save_path": "/caf\udce9"}, {"torch": version})
    assert (tmp_path / "Parameter_Info.txt").read_bytes() == (
        b"save_path: /caf\xe9\n\ntorch: 2.9\n\ntorch: 2.10\n")
    assert json.loads((tmp_path / "options.json").read_text()) == {"save_path": "/caf\udce9"}


def test_the_environment_a_run_began_in_stays_beside_another_that_it_went_on_in(tmp_path):
    for version in ("2.9", "2.9", "2.10"):
        run_folder.describe(tmp_path, {"lr": 1}, {"torch": version})
    text = (tmp_path / "Parameter_Info.txt").read_text(encoding="utf-8")
    assert text == "lr: 1\n\ntorch: 2.9\n\ntorch: 2.10\n"


def test_the_summary_holds_minutes_and_table(tmp_path):
    run_folder.summarise(tmp_path, 12.345, "table")
    assert (tmp_path / "training_summary.txt").read_text() == "Training time: 12.35 min\n\ntable\n"


def test_the_last_checkpoint_is_found_where_there_is_one(tmp_path):
    assert run_folder.last(tmp_path) is None
    (tmp_path / run_folder.LAST).write_bytes(b"")
    assert run_folder.last(tmp_path) == tmp_path / run_folder.LAST
