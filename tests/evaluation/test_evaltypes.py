"""evaltypes: the grammar and what `all` stands for."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.evaltypes import expand, parse
from utilities.errors import UserError

FOUR = ["discriminative", "selfsimilarity", "shared", "intra"]
EVERY = [*FOUR, "dc", "imrot", "ensemble_1", "ensemble_2", "ensemble_3"]
JOINED = "Combined_discriminative_selfsimilarity_shared_intra"


@given(mode=st.sampled_from(["Combined", "Sum"]),
       names=st.lists(st.sampled_from(EVERY), min_size=2, unique=True),
       data=st.data())
def test_reading_reverses_writing(mode, names, data):
    numbers = st.integers(1, 400).map(lambda quarters: quarters / 4)
    weights = data.draw(st.lists(numbers, min_size=len(names), max_size=len(names)))
    written = f"{mode}_{'_'.join(names)}" + "".join(f"-{w:g}" for w in weights)
    assert parse(written, EVERY) == (mode, tuple(names), tuple(weights))


def test_names_may_hold_an_underscore():
    """Of a user's own features, too; the longest name that fits is read."""
    assert parse("Combined_discriminative_ensemble_1_ensemble_2-1-1-1", EVERY).names == (
        "discriminative", "ensemble_1", "ensemble_2")
    assert parse("ensemble_3", EVERY) == ("single", ("ensemble_3",), (1.0,))
    own = ["my", "my_own", "own_idea", "shared"]
    assert parse("Sum_my_own_shared", own).names == ("my_own", "shared")
    assert parse("Sum_my_shared_own_idea", own).names == ("my", "shared", "own_idea")


def test_weights_default_to_one():
    assert parse("Sum_shared_intra", FOUR) == ("Sum", ("shared", "intra"), (1.0, 1.0))


def test_a_feature_is_itself():
    assert parse("intra", FOUR) == ("single", ("intra",), (1.0,))


@pytest.mark.parametrize("wrong", [
    "", "all", "dc", "intra-1", "Combined", "Combined_", "Combined_intra", "Sum_intra_intra",
    "Combined_intra_dc", "Combined_intra__shared", "combined_intra_shared", "Sum-1-1",
    "Combined_intra-shared", "Combined_intra_shared_", "Combined__intra_shared",
    "Combined_intra_ensemble_1", "Combined_intra_ensemble", "Combined_intra_1"] + [
        f"Combined_intra_shared-{weights}" for weights in (
        "1", "1-1-1", "1-", "1-x", "1-0", "1-nan", "1-inf", "1-1e3", "1-1_0", "1- 1", "1-٣",
        "1-1\n", "1--1", "1-1.2.3", "1-.")])
def test_anything_else_is_refused(wrong):
    with pytest.raises(UserError, match=r"^--evaltypes: "):
        parse(wrong, FOUR)


@pytest.mark.parametrize("features, dataset, weights", [
    (FOUR[:2], "cub200", ["1-1", "1-0.5", "0.5-1"]),
    (FOUR[:3], "cub200", ["1.5-1-1", "1-1-1", "0.5-1-1"]),
    (FOUR, "cub200", ["0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5"]),
    (FOUR, "cars196", ["0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5", "0.5-2-2-2"]),
    (FOUR, "online_products", ["1-1-1-1", "0.5-1-1-1", "1-0.5-0.5-0.5", "1.5-1-1-1"]),
    (FOUR[:2], "online_products", ["1-1", "1-0.5", "0.5-1"]),
    ([*FOUR, "dc"], "cub200", ["1-1-1-1-1"]),
    (["discriminative", "ensemble_1"], "cub200", ["1-1", "1-0.5", "0.5-1"]),
    (["discriminative", "ensemble_1", "ensemble_2", "ensemble_3"], "cub200",
     ["0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5"]),
    ([*FOUR, "dc", "imrot"], "online_products", ["1-1-1-1-1-1"]),
])
def test_all_is_the_published_combinations(features, dataset, weights):
    joined = "Combined_" + "_".join(features)
    assert expand(["all"], features, dataset) == [f"{joined}-{w}" for w in weights]


def test_all_of_one_feature_is_the_feature():
    assert expand(["all"], ["intra"], "cub200") == ["intra"]


def test_all_may_stand_beside_others_without_duplicates():
    expanded = expand(["intra", "all", "intra", f"{JOINED}-0.5-1-1-1"], FOUR, "cub200")
    assert expanded == ["intra", f"{JOINED}-0.75-1.25-1.25-1.25", f"{JOINED}-0.5-1-1-1",
                        f"{JOINED}-0.5-1.5-1.5-1.5"]
    assert expand(expanded, FOUR, "cub200") == expanded


def test_features_that_are_not_trained_are_refused():
    with pytest.raises(UserError, match="'intra', which is not among --diva_features"):
        expand(["Combined_shared_intra"], ["shared", "discriminative"], "cub200")


def test_a_feature_that_is_not_trained_is_named_whole():
    with pytest.raises(UserError, match="names 'ensemble_2', which is not among --diva_features"):
        parse("Combined_shared_ensemble_2", ["shared", "ensemble_1"])


def test_the_grammar_needs_no_torch():
    code = "import sys, evaluation.evaltypes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True,
                   cwd=Path(__file__).parent.parent.parent)
