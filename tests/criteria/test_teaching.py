"""A term of the objective that teaches nothing is named once, with what helps."""

import math
from types import SimpleNamespace

import pytest
import torch

from criteria.features import Step
from criteria.teaching import Teaching, gradient_norm
from tests import runs


def a_step():
    trunk = torch.randn(4, 6, requires_grad=True)
    heads = {name: trunk @ torch.randn(6, 3) for name in ("one", "two")}
    rotated = torch.randn(4, 6, requires_grad=True)
    return Step(None, heads, trunk, {"rotated_views": ({"one": rotated @ torch.randn(6, 3)},
                                                       rotated)}, {})


def test_the_norm_is_that_of_the_gradient_at_all_embeddings():
    step = a_step()
    loss = 2 * step.embeddings["one"].sum() + (3 * step.embeddings["two"]).sum()
    torch.testing.assert_close(gradient_norm(loss, step),
                               torch.tensor(math.sqrt(12 * 4 + 12 * 9.0)))


def test_a_term_on_a_trunk_is_differentiated_there_and_a_constant_has_no_gradient():
    step = a_step()
    torch.testing.assert_close(gradient_norm(step.trunk.sum(), step), torch.tensor(24.0).sqrt())
    (embeddings, rotated), = step.further_views.values()
    torch.testing.assert_close(gradient_norm(rotated.sum(), step), torch.tensor(24.0).sqrt())
    torch.testing.assert_close(gradient_norm(embeddings["one"].sum(), step),
                               torch.tensor(12.0).sqrt())
    unrelated = torch.zeros((), requires_grad=True)
    assert gradient_norm(unrelated * 1, step) == 0


def objective(**weights):
    return [SimpleNamespace(name=name, weight=weight, remedy=f"more {name}")
            for name, weight in weights.items()]


def test_shares_are_those_of_the_weighted_terms_over_the_measured_steps():
    teaching, step = Teaching(objective(one=1, two=0.5)), a_step()
    for factor in (1, 3):
        teaching.measure({"one": factor * step.embeddings["one"].sum(),
                          "two": step.embeddings["two"].sum()}, step)
    shares, lines = teaching.read({"one": 1, "two": 1})
    assert shares == pytest.approx({"one": 0.8, "two": 0.2}) and lines == []


@pytest.mark.parametrize("loss, factor, reason", [
    (0, 0, "its loss was 0 in every step"),
    (1, 0, "its gradient was 0 in every step that was measured"),
    (1, 1e-8, "its gradient was 1e-08 of the largest term's in the steps that were measured")])
def test_an_idle_term_is_named_once_with_what_helps(loss, factor, reason):
    teaching, step = Teaching(objective(one=1, two=1)), a_step()
    for epoch in range(2):
        teaching.measure({"one": step.embeddings["one"].sum(),
                          "two": factor * step.embeddings["two"].sum()}, step)
        _, lines = teaching.read({"one": 1, "two": loss})
        assert lines == ([] if epoch else [
            f"two seems to teach nothing: {reason}; what helps: more two"])


def test_a_term_that_its_weight_turns_off_is_not_named():
    teaching, step = Teaching(objective(one=1, two=0)), a_step()
    teaching.measure({name: rows.sum() for name, rows in step.embeddings.items()}, step)
    assert teaching.read({"one": 1, "two": 1}) == ({"one": 1.0, "two": 0.0}, [])


def test_when_nothing_at_all_teaches_every_term_is_named():
    teaching, step = Teaching(objective(one=1, two=1)), a_step()
    teaching.measure({name: 0 * rows.sum() for name, rows in step.embeddings.items()}, step)
    shares, lines = teaching.read({"one": 0, "two": 0})
    assert shares == {"one": 0, "two": 0} and len(lines) == 2


FOUR = ("--diva_features", *runs.FOUR, "--log_every", 1)


def test_a_run_logs_shares_of_every_term_and_says_that_a_term_is_idle(tmp_path, capsys):
    """A triplet loss with margin 0 and no hard negatives is 0 once training classes lie apart; a
    queue whose temperature is tiny ranks the key first, so that its loss is 0."""
    folder = runs.train(tmp_path, *FOUR, "--diva_moco_temperature", 1e-7)
    row, = runs.rows(folder, "Train_Gradient share")
    assert [*row] == [*runs.FOUR, "sep. loss"]
    assert sum(row.values()) == pytest.approx(1)
    capsys.readouterr()
    runs.train(tmp_path, "--diva_features", "discriminative", "shared", "--loss", "contrastive",
               "--loss_contrastive_pos_margin", 2.5, "--loss_contrastive_neg_margin", 0)
    told = capsys.readouterr().err
    assert told.count("seems to teach nothing") == 2
    assert ("Epoch 0: discriminative seems to teach nothing: its loss was 0 in every step; what "
            "helps: --batch_mining") in told


def test_measuring_changes_nothing_that_is_trained(tmp_path):
    often = runs.train(tmp_path, *FOUR)
    rarely = runs.train(tmp_path, *FOUR[:-1], 1000)
    different = runs.differences(often, rarely)
    assert different and not [name for name in different if "Gradient share" not in name
                              and "logger" not in name]
