"""CSV files, plots and W&B points of the epochs."""

import errno
import math
import os
import shutil

import numpy as np
import pytest
import torch

from utilities import checkpoint
from utilities.errors import RunError
from utilities.logger import Logger


class Online:
    """In place of a W&B run."""

    def __init__(self, run_id="abc"):
        self.id, self.points, self.pictures, self.finished = run_id, [], [], None
        self.logged = -1

    def start(self):
        pass

    def log(self, values, epoch, best):
        self.points.append((epoch, values))

    def picture(self, name, path):
        self.pictures.append((name, path))

    def finish(self, exit_code=0):
        self.finished = exit_code


def log_epoch(logger, epoch, clusters=True):
    logger.log("Train", "loss", {"loss": torch.tensor(1 / (epoch + 3))})
    logger.log("Train", "Loss", {"discriminative": 0.1 * epoch})
    logger.log("Train", "Loss", {"shared": math.nan})
    logger.log("Test", "discriminative_e_recall", {"e_recall@1": 0.5, "e_recall@2": 0.75})
    logger.log("Test", "discriminative_rho_spectrum", {"rho_spectrum@0": np.array([3.0, 1.0])})
    if clusters:
        logger.log("Test", "discriminative_nmi", {"nmi": 0.5 + epoch})
    logger.end_epoch(epoch)
    logger.publish()


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "CSV_Logs").iterdir())}


def test_one_point_per_epoch_under_the_dashboards_names(tmp_path):
    logger = Logger(tmp_path, online=(online := Online()))
    logger.log("Train", "loss", {"loss": 1})
    logger.log("Train", "sep. loss", {"sep. loss": 2})
    logger.log("Train", "time", {"time": 3})
    logger.log("Train", "epochs", {"epochs": 0})
    logger.log("Train", "Temp", {"temp": 0.1})
    logger.log("Train", "Loss", {"discriminative": 4})
    logger.log("Model Grad", "L2", {"Grad L2": 5})
    logger.log("Model Grad", "Max", {"Grad Max": 6})
    logger.log("Test", "discriminative_e_recall", {"e_recall@1": 0.5})
    logger.end_epoch(0)
    logger.publish()
    assert online.points == [(0, {
        "Train: loss": 1.0, "Train: sep. loss": 2.0, "Train: time": 3.0, "Train: epochs": 0.0,
        "Train: Temp: temp": 0.1, "Train: Loss: discriminative": 4.0,
        "Model Grad: L2: Grad L2": 5.0, "Model Grad: Max: Grad Max": 6.0,
        "Test: discriminative_e_recall: e_recall@1": 0.5})]


def test_csv_files_have_a_header_and_a_row_per_entry(tmp_path):
    logger = Logger(tmp_path)
    log_epoch(logger, 0)
    log_epoch(logger, 1, clusters=False)
    files = read_all(tmp_path)
    assert files["Data_Test_discriminative_e_recall.csv"] == (
        b"e_recall@1,e_recall@2\n0.5,0.75\n0.5,0.75\n")
    assert files["Data_Test_discriminative_nmi.csv"] == b"nmi\n0.5\n"


def test_numbers_are_written_in_full(tmp_path):
    logger = Logger(tmp_path)
    logger.log("Train", "a", {"a": 1 / 3})
    logger.end_epoch(0)
    assert float(read_all(tmp_path)["Data_Train_a.csv"].split()[1]) == 1 / 3


def test_loss_and_Loss_have_files_that_differ_by_more_than_case(tmp_path):
    logger = Logger(tmp_path, plots="epoch")
    log_epoch(logger, 0)
    names = list(read_all(tmp_path))
    assert "Data_Train_loss.csv" in names
    assert len({name.lower() for name in names}) == len(names) == 4
    assert len(os.listdir(tmp_path / "Progression_Plots")) == 4


def test_groups_with_any_characters_get_files(tmp_path):
    logger = Logger(tmp_path, plots="epoch")
    for group in ("a/b", "a:b", "größer", "x" * 300):
        logger.log("Test", group, {"value, with comma": 1.0})
    logger.end_epoch(0)
    assert len(read_all(tmp_path)) == 4
    assert set(read_all(tmp_path).values()) == {b'"value, with comma"\n1.0\n'}


def test_arrays_go_online_only(tmp_path):
    logger = Logger(tmp_path, plots="epoch", online=(online := Online()))
    log_epoch(logger, 0)
    array = online.points[0][1]["Test: discriminative_rho_spectrum: rho_spectrum@0"]
    assert array.tolist() == [3.0, 1.0]
    for folder in ("CSV_Logs", "Progression_Plots"):
        assert not [name for name in os.listdir(tmp_path / folder) if "rho" in name]


@pytest.mark.parametrize(("plots", "during", "after"), [("none", 0, 0), ("end", 0, 4),
                                                        ("epoch", 4, 4)])
def test_plots_are_drawn_when_asked(tmp_path, plots, during, after):
    logger = Logger(tmp_path, plots=plots)
    log_epoch(logger, 0)
    assert len(os.listdir(tmp_path / "Progression_Plots")) == during
    logger.close()
    assert len(os.listdir(tmp_path / "Progression_Plots")) == after


@pytest.mark.parametrize("plots", ["end", "epoch"])
def test_the_evaltypes_of_a_family_are_also_drawn_together(tmp_path, plots):
    logger = Logger(tmp_path, plots=plots)
    for evaltype in ("shared", "Combined_a_b-1-1"):
        logger.log("Test", f"{evaltype}_e_recall", {"e_recall@1": 0.5, "e_recall@2": 0.75})
        logger.log("Test", f"{evaltype}_mAP_c", {"mAP_c": 0.25})
    logger.log("Val", "shared_e_recall", {"e_recall@1": 0.5, "e_recall@2": 0.75})
    logger.log("Train", "Loss", {"discriminative": 1, "shared": 2})
    logger.end_epoch(0)
    logger.close()
    together = {path.name: path.read_text() for path in (tmp_path / "Progression_Plots").iterdir()
                if "_all_" in path.name}
    assert together.keys() == {"Graph_Test_all_e_recall.svg", "Graph_Test_all_mAP_c.svg"}
    assert "Combined_a_b-1-1: 0.5, 0.75" in together["Graph_Test_all_e_recall.svg"]
    assert "shared: 0.25" in together["Graph_Test_all_mAP_c.svg"]


def test_the_name_of_a_plot_is_that_of_its_csv(tmp_path):
    logger = Logger(tmp_path, plots="epoch")
    logger.log("Model Grad", "L2", {"Grad L2": 1})
    logger.end_epoch(0)
    assert (tmp_path / "Progression_Plots" / "Graph_Model Grad_L2.svg").exists()
    assert (tmp_path / "CSV_Logs" / "Data_Model Grad_L2.csv").exists()


def run(folder, epochs, state=None):
    logger = Logger(folder, plots="epoch", online=Online(None))
    if state is not None:
        logger.load_state_dict(state)
    for epoch in epochs:
        log_epoch(logger, epoch, clusters=epoch % 3 == 0)
    return logger


@pytest.mark.parametrize("damage", ["nothing", "rows", "torn line", "lost file", "new group"])
def test_a_resumed_log_is_that_of_an_uninterrupted_run(tmp_path, damage):
    run(tmp_path / "whole", range(8))
    logger = run(tmp_path / "cut", range(5))
    checkpoint.save(tmp_path / "state", logger.state_dict())
    if damage != "nothing":
        log_epoch(logger, 5)
    path = tmp_path / "cut" / "CSV_Logs" / "Data_Train_loss.csv"
    if damage == "torn line":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "lost file":
        path.unlink()
    elif damage == "new group":
        (path.parent / "Data_Test_later.csv").write_text("later\n1\n")
    run(tmp_path / "cut", range(5, 8), checkpoint.load(tmp_path / "state"))
    if damage == "new group":
        (path.parent / "Data_Test_later.csv").unlink()
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    for name in os.listdir(tmp_path / "whole" / "Progression_Plots"):
        assert ((tmp_path / "cut" / "Progression_Plots" / name).read_bytes()
                == (tmp_path / "whole" / "Progression_Plots" / name).read_bytes())


def test_a_run_killed_in_its_first_epoch_starts_its_files_anew(tmp_path):
    """There is no checkpoint yet, but rows may have been written."""
    run(tmp_path / "cut", range(1))
    run(tmp_path / "cut", range(2))
    run(tmp_path / "whole", range(2))
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")


def test_the_run_id_of_wandb_survives(tmp_path):
    state = Logger(tmp_path, online=Online("abc")).state_dict()
    logger = Logger(tmp_path, online=Online(None))
    logger.load_state_dict(state)
    assert logger.online.id == "abc"


def test_a_segment_that_comes_later_is_refused(tmp_path):
    logger = Logger(tmp_path)
    for segment in ("a", "b"):
        logger.log("Train", "group", {segment: 1})
        if segment == "a":
            logger.end_epoch(0)
    with pytest.raises(AssertionError, match="segments"):
        logger.end_epoch(1)


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    logger = Logger(tmp_path)
    log_epoch(logger, 0)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(RunError, match=r"^cannot write .*csv.*No space left on device$"):
        log_epoch(logger, 1)


def test_a_folder_deleted_during_the_run_is_one_clear_line(tmp_path):
    logger = Logger(tmp_path / "run")
    log_epoch(logger, 0)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match=r"^cannot write .*No such file"):
        log_epoch(logger, 1)


def test_closing_ends_the_online_run(tmp_path):
    logger = Logger(tmp_path, online=(online := Online()))
    logger.picture("Sample retrievals", "a.png")
    logger.close(exit_code=1)
    assert online.finished == 1 and online.pictures == [("Sample retrievals", "a.png")]
