import json
import math

import pytest
import torch
from torch import nn

from utilities.errors import RunError, TrainingError
from utilities.monitor import Monitor, NotFinite, gradient_statistics

BATCH = torch.arange(2)


def test_means_are_those_of_the_steps():
    monitor = Monitor()
    for step in range(4):
        monitor.add({"loss": torch.tensor(float(step))}, {"other": torch.tensor(2.0)}, BATCH)
    assert monitor.read() == {"loss": 1.5, "other": 2.0}


def test_a_read_without_steps_is_empty():
    assert Monitor().read() == {}


def test_a_read_names_the_first_step_and_term_that_were_not_finite():
    monitor = Monitor(3)
    values = [(1.0, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, 1.0)]
    for step, (one, two) in enumerate(values):
        monitor.add({"one": torch.tensor(one)}, {"two": torch.tensor(two)}, BATCH + 10 * step)
    with pytest.raises(NotFinite) as bad:
        monitor.read()
    assert (bad.value.term, bad.value.step, bad.value.batch) == ("two", 1, [10, 11])


def test_only_gradients_that_may_overflow_count_as_zero_when_infinite():
    yes, no = torch.tensor(True), torch.tensor(False)

    def monitor(loss, gradient, excused):
        monitor = Monitor(2)
        monitor.add({"loss": torch.tensor(1.0)}, {"gradient": torch.tensor(2.0)}, BATCH, yes)
        monitor.add({"loss": torch.tensor(loss)}, {"gradient": torch.tensor(gradient)}, BATCH,
                    excused)
        return monitor

    assert monitor(1.0, math.inf, yes).read() == {"loss": 1.0, "gradient": 1.0}
    for arguments in ((1.0, math.inf, no), (1.0, math.nan, None), (math.nan, 1.0, yes)):
        with pytest.raises(NotFinite):
            monitor(*arguments).read()


def test_adding_does_not_wait_for_the_device(monkeypatch):
    def wait(*_):
        raise AssertionError("a step read from the device")

    monitor = Monitor()
    for name in ("item", "tolist", "cpu", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, wait)
    for _ in range(3):
        monitor.add({"loss": torch.tensor(1.0, requires_grad=True)},
                    {"gradient": torch.tensor(1.0)}, BATCH, torch.tensor(True))


def test_gradient_statistics_are_root_mean_square_and_largest_entry():
    parameters = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5)),
                  nn.Parameter(torch.zeros(7))]
    parameters[0].grad, parameters[1].grad = torch.randn(3, 2), torch.randn(5)
    entries = torch.cat([parameters[0].grad.flatten(), parameters[1].grad])
    statistics = gradient_statistics(parameters[:1], parameters[1:])
    torch.testing.assert_close(statistics["Grad L2"], entries.square().mean().sqrt())
    torch.testing.assert_close(statistics["Grad Max"], entries.abs().max())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_of_criteria_are_watched_apart_from_the_networks(value):
    network, criterion, other = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    network.grad, criterion.grad = torch.ones(2), torch.tensor([value, 0.0])
    statistics = gradient_statistics([network], [], [other], [criterion])
    for name in ("Grad Max", "Grad L2"):
        torch.testing.assert_close(statistics[name], torch.tensor(1.0))
    assert not statistics["Grad Max of criteria"].isfinite()


def test_statistics_have_the_same_names_whatever_has_a_gradient():
    parameter = nn.Parameter(torch.zeros(2))
    without = gradient_statistics([parameter], [], [parameter])
    assert all(value == 0 for value in without.values())
    parameter.grad = torch.ones(2)
    assert [*gradient_statistics([parameter], [])] == [*without]


def test_a_check_names_the_parameter_or_buffer_and_the_last_step():
    module, monitor = nn.Sequential(nn.BatchNorm1d(3)), Monitor()
    monitor.check(module, nn.ModuleList())
    module[0].running_var[1] = math.inf
    with pytest.raises(NotFinite) as bad:
        monitor.check(nn.ModuleList(), module)
    assert (bad.value.term, bad.value.step, bad.value.batch) == ("0.running_var", None, [])
    for step in range(3):
        monitor.add({"loss": torch.tensor(1.0)}, {}, BATCH + step)
    with pytest.raises(NotFinite) as bad:
        monitor.check(module)
    assert (bad.value.step, bad.value.batch) == (2, [2, 3])


def test_a_check_ignores_state_that_is_no_tensor():
    class Remembering(nn.Linear):
        def get_extra_state(self):
            return {"position": 3}

    module, monitor = Remembering(2, 2), Monitor()
    monitor.check(module)
    with torch.no_grad():
        module.bias[0] = math.nan
    with pytest.raises(NotFinite, match="bias"):
        monitor.check(module)


def explain(monitor, error, folder):
    """What the error that is raised says, None where none is."""
    try:
        monitor.explain(error, folder, 5, ["a.jpg", "b.jpg", "c.jpg"])
    except RunError as explained:
        assert type(explained) is RunError and "\n" not in str(explained)
        return str(explained)
    return None


def test_what_was_not_finite_explains_a_later_error(tmp_path):
    monitor = Monitor()
    assert explain(monitor, RuntimeError(), tmp_path) is None
    assert explain(monitor, NotFinite("weight", 0, []), tmp_path).startswith("weight is not")
    monitor.add({"loss": torch.tensor(math.nan)}, {}, BATCH)
    assert explain(monitor, RuntimeError(), tmp_path).startswith("loss is not finite in epoch 5")


def test_the_files_of_the_batch_that_was_not_finite_are_listed(tmp_path):
    told = explain(Monitor(), NotFinite("loss", 3, [2, 0]), tmp_path)
    assert told == ("loss is not finite in epoch 5, step 3; the files of that batch are in "
                    f"'{tmp_path}/not_finite.json'; no epoch is saved yet")
    assert json.loads((tmp_path / "not_finite.json").read_text()) == {
        "term": "loss", "epoch": 5, "step": 3, "files": ["c.jpg", "a.jpg"]}
    assert "before the first step" in explain(Monitor(), NotFinite("w", None, []), tmp_path)


def test_what_training_led_to_is_told_with_its_place_and_the_last_good_checkpoint(tmp_path):
    class InStep(TrainingError):
        in_step = True

    monitor = Monitor()
    monitor.add({"loss": torch.tensor(1.0)}, {}, BATCH)
    assert explain(monitor, TrainingError("too large"), tmp_path) == (
        "epoch 5: too large; no epoch is saved yet")
    checkpoint = tmp_path / "checkpoint_last.pth.tar"
    checkpoint.touch()
    assert explain(monitor, InStep("too odd"), tmp_path) == (
        f"epoch 5, step 1: too odd; the last good checkpoint is '{checkpoint}'")
    assert explain(monitor, RunError("the disk is full"), tmp_path) is None


def test_progress_shows_the_loss_read_last_without_reading():
    monitor = Monitor(3, {"loss": 2.0})
    for value in (1.0, math.nan):
        monitor.add({"loss": torch.tensor(value)}, {}, torch.arange(2))
    shown = monitor.progress(batch_size=2)
    assert shown["loss"] == "2.000" and float(shown["images/s"]) > 0
    assert "loss" not in Monitor(3).progress(2)
    monitor = Monitor(3, {"loss": 2.0})
    monitor.add({"loss": torch.tensor(1.0)}, {}, torch.arange(2))
    monitor.read()
    assert monitor.progress(2)["loss"] == "1.000"
