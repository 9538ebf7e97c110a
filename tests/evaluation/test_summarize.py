"""Runs over seeds: what is read, the statistics, comparisons, formats, refusals."""

import csv
import io
import re
import shutil
import statistics
import sys
import types
from argparse import Namespace

import pytest
import torch
from scipy import stats

from evaluation import summarize
from evaluation.runs import Run, from_history, from_wandb, read
from tests import runs, wandb_records
from tests.tools import call
from utilities.errors import RunError, UserError

KEY = ("Test", "discriminative", "best e_recall@1", "e_recall@1")


def run(seed=0, value=0.5, group="A", **options) -> Run:
    """A run with one number."""
    given = {"dataset": "tiny", "group": group, "seed": seed, "lr": 0.1, "n_epochs": 2,
             "storage_metrics": ["e_recall@1"], **options}
    return Run(f"runs/{group}_s{seed}", given, 2, {KEY: value, (*KEY[:2], "last", KEY[3]): value},
               {"testing": [4, "digest"]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three seeds of one group, and two of another with two features, in one tree."""
    tree = tmp_path_factory.mktemp("runs")
    argv = ("--n_epochs", 2, "--evaluation_metrics", "e_recall@1", "mAP_r", "--group")
    for seed in (1, 2, 3):
        runs.train(tree, *argv, "one", "--seed", seed)
    for seed in (2, 3):
        runs.train(tree, *argv, "two", "--seed", seed, "--diva_features", "discriminative",
                   "shared", "--evaltypes", "discriminative", "all")
    return tree / "runs"


def test_categories_follow_their_split():
    last = [(split, "all", "last", "nmi") for split in ("Test", "Test, fruit", "Train", "Val")]
    assert [key[0] for key in summarize.ordered(last)] == ["Train", "Val", "Test", "Test, fruit"]


def test_mean_deviation_and_interval_are_those_of_student():
    values = [0.2, 0.5, 0.9, 0.3]
    row = summarize.summary(values)
    low, high = stats.t.interval(0.95, 3, loc=statistics.fmean(values), scale=stats.sem(values))
    assert row.n == 4 and row.mean == pytest.approx(0.475)
    assert row.std == pytest.approx(statistics.stdev(values))
    assert (row.mean - row.half, row.mean + row.half) == pytest.approx((low, high))
    assert summarize.summary([0.4]) == (0.4, None, None, 1)


def table_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_is_that_of_the_runs_own_logs(trained, capsys):
    assert call(summarize, trained, "--format", "csv") == 0
    told = capsys.readouterr()
    rows = [row for row in table_of(told.out) if row["runs"] == "one on tiny"]
    logs = [runs.rows(trained / "tiny" / f"one_s{seed}", "Test_discriminative_e_recall")
            for seed in (1, 2, 3)]
    for epoch, values in (("last", [log[-1]["e_recall@1"] for log in logs]),
                          ("best e_recall@1", [max(row["e_recall@1"] for row in log)
                                               for log in logs])):
        row, = (row for row in rows if row["metric"] == "e_recall@1" and row["epoch"] == epoch)
        wanted = summarize.summary(values)
        assert [float(row[name]) for name in ("mean", "std", "low", "high")] == pytest.approx([
            wanted.mean, wanted.std, wanted.mean - wanted.half, wanted.mean + wanted.half])
        assert (row["seeds"], row["chosen_on"], row["paper"]) == ("3", "Test", "")
    assert "on test data" in told.err


def test_w_and_b_holds_the_same_results(tmp_path, monkeypatch):
    """By what its client has kept of a run that was resumed. Of a point that stands there twice the
    later one counts, and points of earlier epochs may come later."""
    wandb_records.restart(monkeypatch)
    folder = runs.train(tmp_path, "--log_online", "--n_epochs", 2, "--evaluation_metrics", "nmi",
                        "rho_spectrum@0", "dists@intra", "--diva_features", "discriminative",
                        "shared", "--evaltypes", "all", "--plots", "end")
    runs.resume(folder, "--n_epochs", 3)
    parts = wandb_records.parts(folder)
    points = [point for part in parts for point in part.history]
    assert len(parts) == 2 and len(points) == 3
    here = read(folder, "folders")
    for order in ([0, 1, 2], [0, 1, 1, 2], [2, 0, 1]):
        there = from_history("w/p/id", parts[0].config, [points[n] for n in order])
        assert there.values == here.values and there.epochs == here.epochs == 3
    wrong = points[1] | {key: 0.0 for key in points[1] if key.startswith("Test")}
    assert from_history("w/p/id", parts[0].config, [points[0], wrong, *points[1:]]) == there


def test_w_and_b_chooses_on_the_validation_split_where_there_is_one():
    points = [{"Val: a_b_e_recall: e_recall@1": val, "Test: a_b_e_recall: e_recall@1": test,
               "Test: a_b_c_recall: c_recall@1": test}
              for val, test in ((0.1, 0.9), (0.3, 0.5), (0.3, 0.7))]
    there = from_history("w", {"storage_metrics": ["e_recall@1"]}, points)
    assert there.chosen_on == "Val"
    assert there.values["Test", "a_b", "best e_recall@1", "e_recall@1"] == 0.5
    assert there.values["Test", "a_b", "best e_recall@1", "c_recall@1"] == 0.5
    assert there.values["Test", "a_b", "last", "e_recall@1"] == 0.7


def test_w_and_b_counts_the_epochs_between_evaluations():
    points = [{"Train: loss": 1.0} | ({"Test: a_e_recall: e_recall@1": 0.1} if i % 2 == 0 else {})
              for i in range(5)] + [{"Sample retrievals": {}}]
    there = from_history("w", {"storage_metrics": ["e_recall@1"]}, points)
    assert there.epochs == 5 and there.values["Test", "a", "last", "e_recall@1"] == 0.1


def test_a_project_is_read_and_what_fails_there_is_one_line(monkeypatch, capsys):
    """The service itself cannot be reached where the tests run: a stand-in for its client."""
    def client(runs):
        def listed(project):
            assert project == "me/mine"
            return runs()
        module = types.ModuleType("wandb")
        module.Api = lambda: Namespace(runs=listed)
        monkeypatch.setitem(sys.modules, "wandb", module)

    def logged(seed, points):
        config = {"dataset": "d", "group": "g", "seed": seed, "diva_features": ["a"],
                  "storage_metrics": ["nmi"], "n_epochs": 1, "environment": {"torch": str(seed)}}
        return Namespace(id=f"id{seed}", config=config, scan_history=lambda: iter(points))

    client(lambda: [logged(0, [{"Test: a_nmi: nmi": 0.25}]),
                    logged(1, [{"Test: a_nmi: nmi": 0.75}]), logged(2, []),
                    Namespace(id="other", config={}, scan_history=None)])
    assert call(summarize, "--wandb", "me/mine") == 0
    told = capsys.readouterr()
    assert "0.5000  0.3536" in told.out and "Left out me/mine/id2" in told.err

    def refused():
        raise ValueError("no such\nproject")
    client(refused)
    with pytest.raises(RunError, match="cannot read 'me/mine' from W&B: no such project"):
        from_wandb("me/mine")


def test_a_validation_split_is_named(capsys):
    values = {("Val", *KEY[1:]): 0.4, KEY: 0.5}
    note = "\n".join(summarize.notes({1: run()._replace(values=values)}))
    assert "e_recall@1 on the validation split" in note and "test data" not in note


def test_differences_are_paired_by_seed():
    groups = summarize.grouped([run(1, 0.1), run(2, 0.5), run(3, 0.9), run(2, 0.6, "B"),
                                run(3, 0.8, "B")])
    table, = summarize.compared(groups, "A", "B")
    low, high = stats.t.interval(0.95, 1, loc=0, scale=stats.sem([0.1, -0.1]))
    row = table.rows[KEY]
    assert (row.n, row.mean) == (2, pytest.approx(0)) and row.half == pytest.approx(high)
    other, = summarize.compared(groups, "B", "A")
    assert other.rows[KEY].half == pytest.approx(row.half) and low == -high


def test_evaltypes_of_two_groups_can_be_compared(trained, capsys):
    combined = "Combined_discriminative_shared-1-1"
    assert call(summarize, trained, "--compare", "one:discriminative", f"two:{combined}",
                "--format", "csv") == 0
    told = capsys.readouterr()
    row = next(row for row in table_of(told.out) if row["epoch"] == "last")
    values = [runs.rows(trained / "tiny" / f"two_s{seed}", f"Test_{combined}_e_recall")[-1][
        "e_recall@1"] - runs.rows(trained / "tiny" / f"one_s{seed}",
                                  "Test_discriminative_e_recall")[-1]["e_recall@1"]
              for seed in (2, 3)]
    assert (float(row["mean"]), row["seeds"]) == (pytest.approx(statistics.fmean(values)), "2")
    assert "--diva_features (discriminative, discriminative shared)" in told.err


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_formats_show_the_numbers_and_how_they_were_chosen(trained, form, capsys):
    assert call(summarize, trained, "--format", form) == 0
    text = capsys.readouterr().out
    row = summarize.summary([runs.rows(trained / "tiny" / f"one_s{seed}",
                                       "Test_discriminative_mAP_r")[-1]["mAP_r"]
                             for seed in (1, 2, 3)])
    assert f"{row.mean:.4f}" in text and f"{row.std:.4f}" in text
    assert f"{row.mean - row.half:.4f} to {row.mean + row.half:.4f}" in text
    assert "on test data" in text
    if form == "latex":
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
        assert not re.search(r"(?<!\\)[_#$]", re.sub(r"^%.*$", "", text, flags=re.MULTILINE))
    if form == "markdown":
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in rows} == {9}


def test_the_papers_numbers_stand_beside_ours():
    seeds = {0: run(0, 0.68, group="CUB_DiVA-R50-512", dataset="cub200")}
    table = summarize.table("cub200", "CUB_DiVA-R50-512", seeds)
    text = summarize.text([table])
    best, last = (line for line in text.splitlines() if "  e_recall@1  " in line)
    assert best.endswith("0.692") and last.endswith("-") and "0.6800" in best
    other = summarize.text([summarize.table("cub200", "Other", seeds)])
    assert "seeds  paper" in text and "seeds  paper" not in other


@pytest.mark.parametrize(("others", "told"), [
    ([run(1, lr=0.2)], "differ in more than the seed: --lr (0.1 in 'runs/A_s0', 0.2 in "
                       "'runs/A_s1'); accepted"),
    ([run(1, lr=0.2), run(2, n_epochs=9)], "--lr (0.1 in 'runs/A_s0', 0.2 in 'runs/A_s1'), "
                                           "--n_epochs (2 in"),
    ([run(1, new="x")], "--new (absent in 'runs/A_s0', 'x' in 'runs/A_s1')"),
    ([run(1)._replace(data={"testing": [4, "x"]})], "on other images"),
    ([run(0)._replace(where="runs/again")], "'runs/A_s0' and 'runs/again' have the same seed, 0")])
def test_what_is_no_group_over_seeds_is_refused(others, told):
    with pytest.raises(UserError) as error:
        summarize.grouped([run(), *others])
    assert told in str(error.value)


def test_machine_and_places_may_differ():
    groups = summarize.grouped([run(), run(1, device="cuda", kernels=4, save_path="x", given=[1],
                                           savename="y", wandb_mode="offline", map="tsne",
                                           cache="ram", channels_last=True, compile=True,
                                           deterministic=True)])
    assert list(groups["tiny", "A"]) == [0, 1]


def test_unfinished_runs_are_named_and_those_without_an_epoch_left_out(trained, tmp_path, capsys):
    shutil.copytree(trained / "tiny" / "one_s1", tmp_path / "tiny" / "one_s1")
    shutil.copytree(trained / "tiny" / "one_s2", tmp_path / "tiny" / "one_s2")
    (tmp_path / "tiny" / "one_s2" / "checkpoint_last.pth.tar").unlink()
    state = runs.last(tmp_path / "tiny" / "one_s1")
    state["epoch"] = 1
    torch.save(state, tmp_path / "tiny" / "one_s1" / "checkpoint_last.pth.tar")
    assert call(summarize, tmp_path) == 0
    told = capsys.readouterr()
    assert "Unfinished: seed 1 has trained 1 epochs." in told.out
    assert "One seed has no standard deviation" in told.out
    assert f"Left out {tmp_path}/tiny/one_s2" in told.err


