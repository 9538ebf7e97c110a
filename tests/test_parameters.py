"""parameters: the frozen flags, what is derived from what, resuming."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchminer
import criteria
import datasampler
import parameters
from parameters import FLAGS, read_arguments, resolve
from utilities.errors import UserError

ROOT = Path(__file__).parent.parent
FROZEN = json.loads((ROOT / "tests/golden/flags.json").read_text())
METHOD = ["--diva_features", "discriminative", "selfsimilarity", "shared", "intra"]


def options(*argv):
    return read_arguments([str(word) for word in argv])


@pytest.mark.parametrize("name", FROZEN)
def test_flags_of_the_original_keep_name_type_arity_and_default(name):
    flag, frozen = FLAGS[name.removeprefix("--")], FROZEN[name]
    default = frozen["default"]
    if isinstance(default, str):
        default = default.replace("<cwd>", os.getcwd())
    assert flag.default == ([0] if name == "--gpu" else default)
    assert getattr(parameters.parse([]), flag.dest) == flag.default
    if frozen["type"] == "flag":
        assert flag.kind is bool and getattr(parameters.parse([name]), flag.dest) is True
    else:
        assert flag.kind.__name__ == frozen["type"] and flag.nargs == frozen["nargs"]


# What SPEC adds to the original's flags -> its default.
ADDED = {
    "train_val_split_by_class": False, "val_folds": None, "val_fold": None,
    "diva_dance": "released",
    "miner_parametric_mode": "uniform", "miner_parametric_n_support": 10,
    "miner_parametric_support_lim": [0.1, 1.8],
    "miner_anticollapse_distance_lower_cutoff": 0.5,
    "miner_anticollapse_distance_upper_cutoff": 1.4,
    "miner_anticollapse_cdistance_lower_cutoff": 0.5,
    "miner_anticollapse_cdistance_upper_cutoff": 1.4, "miner_anticollapse_cdistance_cp": 0.2,
    "miner_rho_distance_lower_cutoff": 0.5, "miner_rho_distance_upper_cutoff": 1.4,
    "miner_rho_distance_cp": 0.2,
    "loss_oproxy_mode": "anchor", "loss_oproxy_euclidean": False, "loss_oproxy_lrmulti": 2000,
    "loss_oproxy_pos_alpha": 32, "loss_oproxy_neg_alpha": 32, "loss_oproxy_pos_delta": 0.1,
    "loss_oproxy_neg_delta": -0.1, "loss_softtriplet_original": False,
    "loss_arcface_original": False, "pml_loss_args": {}, "pml_miner_args": {},
    "evaluate_on_gpu": False, "augmentation": "base", "train_metrics": False, "optim": "adam",
    "device": "auto", "weights_path": None, "crop_size": None, "resize": None, "precision": "fp32",
    "channels_last": False, "compile": False, "cache": "none", "resume": None,
    "evaluate_only": False, "checkpoint": None, "wandb_mode": "online", "wandb_entity": None,
    "plots": "end", "map": "pca", "log_every": 20, "cluster_every": 1, "skip_broken_images": False,
    "check_data": False, "deterministic": False, "evaluate_on_cpu": False, "save_every": 1,
    "all_classes": False, "results": None, "per_class": None, "warmup_epochs": 0, "clip_grad": 0,
    "ema": 0, "freeze_backbone": 0, "evaluate_every": 1,
}


def test_added_flags_have_their_defaults():
    """Further ones, of a user's own parts, are welcome."""
    assert FLAGS.keys() >= ADDED.keys() | {name[2:] for name in FROZEN}
    assert {name: FLAGS[name].default for name in ADDED} == ADDED


def test_every_flag_says_what_it_does():
    assert all(len(flag.help) > 10 for flag in FLAGS.values())
    texts = [flag.help for name, flag in FLAGS.items() if name not in NEVER_READ + NOT_APPLIED]
    assert len(texts) == len(set(texts))


def test_help_is_printed_without_torch():
    code = ("import sys, parameters\n"
            "try: parameters.read_arguments(['--help'])\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert not {'torch', 'numpy'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"--{name}" in done.stdout for name in FLAGS)


def test_names_are_those_of_the_objective_and_registries():
    assert set(FLAGS["diva_features"].accepts) == set(criteria.FEATURES)
    assert set(FLAGS["diva_sharing"].accepts) == set(criteria.SHARING)
    assert set(FLAGS["diva_intra"].accepts) == set(criteria.INTRA)
    assert set(FLAGS["diva_ssl"].accepts) == {
        name for name, part in criteria.PARTS.items() if part.flag == "--diva_ssl"}


def test_defaults_pass_their_own_checks():
    opt = options()
    assert opt.given == []
    assert (opt.crop_size, opt.resize) == (224, 256)
    assert (opt.optim, opt.batch_mining) == ("adam", "distance")
    assert opt.evaltypes == ["discriminative"] and opt.diva_decorrelations == []


def test_given_holds_values_that_equal_the_default():
    opt = options("--bs", 112, "--loss=margin", "--use_sgd")
    assert opt.given == ["bs", "loss", "use_sgd"]


def test_the_last_of_a_flag_given_twice_wins():
    assert options("--n_epochs", 350, "--n_epochs", 2).n_epochs == 2


@pytest.mark.parametrize("words, name, value", [
    ("--source /data", "source_path", "/data"), ("--source=/data", "source_path", "/data"),
    ("--n_epoch 3", "n_epochs", 3), ("--use", "use_sgd", True),
    ("--loss triplet", "loss", "triplet"),
    ("--diva_fe discriminative shared", "diva_features", ["discriminative", "shared"])])
def test_an_unambiguous_prefix_of_a_flag_is_that_flag(words, name, value):
    opt = options(*words.split())
    assert getattr(opt, name) == value and name in opt.given


def test_every_flag_can_be_given_by_its_whole_name_though_it_begins_others():
    begins_others = [name for name in FLAGS if any(other != name and other.startswith(name)
                                                   for other in FLAGS)]
    assert {"loss", "train_val_split", "diva_fixed"} & set(begins_others) >= {"loss"}
    assert options("--train_val_split", 0.5).train_val_split == 0.5


@pytest.mark.parametrize("loss", sorted(criteria.LOSSES.keys() - criteria.TAKES.keys()))
def test_a_miner_that_the_loss_does_not_use_is_a_warning(loss, capsys):
    assert options("--loss", loss, "--batch_mining", "semihard").loss == loss
    assert capsys.readouterr().err == (
        f"diva_main.py: warning: --batch_mining: 'semihard' given, but --loss {loss} mines no "
        "tuples; no effect\n")


@pytest.mark.parametrize("cores, processes, kernels", [
    (2, None, 2), (1, None, 1), (64, None, 16), (64, 8, 2), (4, 8, 1), (24, 3, 5)])
def test_workers_are_the_cores_up_to_16_shared_by_the_processes(monkeypatch, cores, processes,
                                                                kernels):
    monkeypatch.setattr(parameters, "available_cores", lambda: cores)
    if processes:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert parameters.resolve(parameters.parse([])).kernels == kernels
    assert parameters.resolve(parameters.parse(["--kernels", "8"])).kernels == 8


def test_resolve_is_pure():
    raw = parameters.parse([*METHOD, "--evaltypes", "all", "--data_sampler", "class_random"])
    before = json.dumps(vars(raw), sort_keys=True)
    first, second = resolve(raw), resolve(raw)
    assert json.dumps(vars(raw), sort_keys=True) == before
    assert first == second
    first.tau.append(1)
    first.evaluation_metrics.append("f1")
    assert options() == options()
    assert resolve(raw) == second


def test_flags_without_effect_warn(capsys):
    options("--extension", "none", "--loss_binomial_margin", 0.1, "--data_gc_coreset_lim", 1)
    assert capsys.readouterr().err == (
        "diva_main.py: warning: --data_gc_coreset_lim, --extension, --loss_binomial_margin: "
        "accepted for compatibility, no effect\n")
    options("--bs", 112)
    assert capsys.readouterr().err == ""


NEVER_READ = ["extension", "loss_binomial_pos_weight", "loss_binomial_neg_weight",
              "loss_binomial_margin", "loss_binomial_thresh", "loss_quadruplet_alpha1",
              "loss_quadruplet_alpha2", "data_gc_coreset_lim"]
NOT_APPLIED = ["miner_distance_upper_cutoff", "miner_rho_distance_upper_cutoff",
               "miner_anticollapse_cdistance_upper_cutoff"]


def test_flags_that_the_original_never_read_say_so():
    assert {n for n, f in FLAGS.items() if f.help == "accepted for compatibility, no effect"} \
        == set(NEVER_READ)


def test_cutoffs_that_no_miner_applies_say_so(capsys):
    for name in NOT_APPLIED:
        assert FLAGS[name].help.startswith(parameters.NO_EFFECT)
        options(f"--{name}", 1.3)
        assert capsys.readouterr().err == (
            f"diva_main.py: warning: --{name}: accepted for compatibility, no effect\n")


# Derivations.

@pytest.mark.parametrize("words", ["--use_sgd", "--optim sgd", "--use_sgd --optim sgd"])
def test_use_sgd_and_optim_sgd_are_the_same(words):
    assert options(*words.split()).optim == "sgd"


@pytest.mark.parametrize("words", ["--diva_fixed", "--diva_dance fixed",
                                   "--diva_dance fixed --diva_fixed"])
def test_diva_fixed_and_diva_dance_fixed_are_the_same(words):
    opt = options(*words.split())
    assert (opt.diva_fixed, opt.diva_dance) == (True, "fixed") and resolve(opt) == opt
    assert options().diva_dance == "released" and not options().diva_fixed


def test_a_run_of_an_earlier_version_keeps_its_form_of_dance(tmp_path):
    """It stored --diva_fixed and no --diva_dance."""
    for stored, dance in (({"diva_fixed": True}, "fixed"), ({}, "released")):
        (tmp_path / "options.json").write_text(json.dumps(stored))
        assert options("--resume", tmp_path).diva_dance == dance
        assert options("--resume", tmp_path, "--diva_dance", dance).diva_dance == dance
        with pytest.raises(SystemExit):
            options("--resume", tmp_path, "--diva_dance", "weighted")


@pytest.mark.parametrize("loss, miner", [
    ("npair", "npair"), ("angular", "npair"), ("lifted", "lifted"), ("margin", "distance"),
    ("snr", "distance"), ("softmax", "distance"), ("pml:TripletMarginLoss", "distance")])
def test_mining_follows_the_loss_unless_given(loss, miner):
    assert options("--loss", loss).batch_mining == miner


def test_a_given_miner_is_kept():
    assert options("--loss", "triplet", "--batch_mining", "semihard").batch_mining == "semihard"
    guest = options("--loss", "triplet", "--batch_mining", "pml:HDCMiner")
    assert guest.batch_mining == "pml:HDCMiner"


@pytest.mark.parametrize("loss", sorted(criteria.TAKES))
@pytest.mark.parametrize("miner", sorted(batchminer.MINERS))
def test_a_loss_takes_the_miners_of_its_kind_and_no_other(loss, miner, capsys):
    argv = ["--loss", loss, "--batch_mining", miner]
    if criteria.TAKES[loss] == batchminer.TUPLES[miner]:
        assert options(*argv).batch_mining == miner
    else:
        with pytest.raises(SystemExit):
            options(*argv)
        assert f"'{miner}' gives {batchminer.TUPLES[miner]}" in capsys.readouterr().err


@pytest.mark.parametrize("features, pairs", [
    (["discriminative"], []),
    (["discriminative", "shared"], []),
    (["shared", "discriminative", "selfsimilarity"],
     ["selfsimilarity-discriminative", "shared-discriminative", "shared-selfsimilarity"]),
    (METHOD[1:],
     ["selfsimilarity-discriminative", "shared-discriminative", "intra-discriminative"]),
    ([*METHOD[1:], "dc"], []),
    (["discriminative", "selfsimilarity", "shared", "imrot"], []),
    (["discriminative", "selfsimilarity", "shared", "invariantspread"], []),
])
def test_decorrelation_pairs_are_the_papers(features, pairs):
    opt = options("--diva_features", *features)
    assert opt.diva_decorrelations == pairs
    assert opt.diva_rho_decorrelation == [1500] * len(pairs)


def test_given_decorrelation_pairs_are_kept():
    opt = options(*METHOD, "--diva_decorrelations", "shared-intra", "intra-shared",
                  "--diva_rho_decorrelation", 3, 0.5)
    assert opt.diva_decorrelations == ["shared-intra", "intra-shared"]
    assert opt.diva_rho_decorrelation == [3, 0.5]


def test_one_rho_is_used_for_all_pairs():
    assert options(*METHOD, "--diva_rho_decorrelation", 7).diva_rho_decorrelation == [7, 7, 7]
    assert options("--diva_features", "discriminative", "dc",
                   "--diva_rho_decorrelation", 500).diva_rho_decorrelation == []


@pytest.mark.parametrize("dataset, metrics", [
    ("online_products", "e_recall@1 e_recall@10 e_recall@100 nmi f1 mAP"),
    ("in-shop", "e_recall@1 e_recall@10 e_recall@20 e_recall@30 e_recall@50 nmi f1 mAP_c"),
    ("cub200", "e_recall@1 e_recall@2 e_recall@4 nmi f1 mAP_c"),
    ("my_own", "e_recall@1 e_recall@2 e_recall@4 nmi f1 mAP_c"),
])
def test_datasets_have_their_metrics_unless_given(dataset, metrics):
    assert options("--dataset", dataset).evaluation_metrics == metrics.split()
    default = FLAGS["evaluation_metrics"].default
    asked = options("--dataset", dataset, "--evaluation_metrics", *default)
    assert asked.evaluation_metrics == default


def test_a_metric_asked_for_twice_is_computed_once():
    assert options("--evaluation_metrics", "nmi", "f1", "nmi").evaluation_metrics == ["nmi", "f1"]


@pytest.mark.parametrize("argv, crop, resize", [
    ([], 224, 256), (["--arch", "bninception_normalize"], 227, 256),
    (["--arch", "googlenet_frozen"], 227, 256), (["--augmentation", "big"], 256, 256),
    (["--augmentation", "big", "--arch", "bninception"], 256, 256),
])
def test_crop_follows_backbone_and_augmentation(argv, crop, resize):
    opt = options(*argv)
    assert (opt.crop_size, opt.resize) == (crop, resize)
    given = options(*argv, "--crop_size", crop)
    assert (given.crop_size, given.resize) == (crop, resize)


@pytest.mark.parametrize("argv, resize", [
    (["--crop_size", 112], 128), (["--crop_size", 64, "--augmentation", "big"], 64),
    (["--crop_size", 454, "--arch", "bninception"], 512)])
def test_resize_keeps_its_proportion_to_another_crop(argv, resize):
    assert options(*argv).resize == resize


def test_a_text_that_looks_like_a_number_stays_as_it_was_given():
    assert options("--savename", "-1e5").savename == "-1e5"
    assert parameters.parse(["--evaltypes", "-1e5", "-2."]).evaltypes == ["-1e5", "-2."]
    assert options("--loss_oproxy_pos_delta", "-5.").loss_oproxy_pos_delta == -5


@pytest.mark.parametrize("number", ["-1e-1", "-.1", "-0.1", "-1E-01"])
def test_negative_numbers_are_read_in_any_form(number):
    opt = options("--loss", "oproxy", "--loss_oproxy_neg_delta", number, "--bs", 8)
    assert (opt.loss_oproxy_neg_delta, opt.bs) == (-0.1, 8)


def test_a_given_resize_is_kept():
    assert options("--crop_size", 48, "--resize", 100).resize == 100


def test_savename_is_group_and_seed_unless_given():
    assert options("--group", "CUB", "--seed", 3).savename == "CUB_s3"
    assert options("--savename", "mine").savename == "mine"


def test_paths_are_absolute_whatever_the_working_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    opt = options("--source_path", "~/data", "--save_path", "runs")
    assert opt.source_path == "/home/someone/data"
    assert opt.save_path == os.path.join(os.getcwd(), "runs")
    assert options().weights_path is None


def test_guests_arguments_become_dicts():
    opt = options("--loss", "pml:NCALoss", "--pml_loss_args", '{"softmax_scale": 2}')
    assert opt.pml_loss_args == {"softmax_scale": 2} and opt.pml_miner_args == {}


@pytest.mark.parametrize("sampler", sorted(datasampler.SAMPLERS))
def test_samplers_that_group_by_class_want_whole_groups(sampler):
    argv = ["--data_sampler", sampler, "--bs", 8, "--samples_per_class", 3]
    if sampler not in datasampler.BY_CLASS:
        assert options(*argv).bs == 8
    else:
        with pytest.raises(SystemExit):
            options(*argv)


def test_which_samplers_group_by_class():
    assert {"class_random", "class_random_unique", "fid_batchmatch", "greedy_coreset",
            "d2_coreset"} <= datasampler.BY_CLASS
    assert not datasampler.BY_CLASS & {"random", "full_random", "rrandom", "random_semi_class",
                                       "full_greedy_coreset"}


def test_features_other_than_the_published_need_no_decorrelation_flags():
    for feature in criteria.FEATURES:
        opt = options("--diva_features", feature, "--evaltypes", "all")
        assert opt.evaltypes == [feature]


def test_without_discriminative_all_is_evaluated_unless_given():
    assert options("--diva_features", "shared").evaltypes == ["shared"]
    opt = options("--diva_features", "shared", "intra")
    assert opt.evaltypes[0] == "Combined_shared_intra-1-1"
    assert options(*METHOD).evaltypes == ["discriminative"]
    assert options("--diva_features", "shared", "intra",
                   "--evaltypes", "intra").evaltypes == ["intra"]


def test_moco_needs_no_unit_length():
    argv = ["--diva_features", "discriminative", "selfsimilarity", "--arch", "resnet18"]
    assert options(*argv, "--diva_ssl", "moco").diva_ssl == "moco"
    assert options("--arch", "resnet18").arch == "resnet18"  # nothing self-supervised trains


# Secrets and files.

def test_the_key_is_in_no_public_option():
    opt = options("--wandb_key", "secret-0123")
    assert opt.wandb_key == "secret-0123"
    assert "secret" not in json.dumps(parameters.public(opt))
    assert options().wandb_key is None


def test_public_options_survive_json():
    opt = options(*METHOD, "--evaltypes", "all")
    assert json.loads(json.dumps(parameters.public(opt))) == parameters.public(opt)


COMMANDS = st.fixed_dictionaries({}, optional={
    "--diva_features": st.lists(st.sampled_from(list(criteria.FEATURES)), min_size=1, unique=True),
    "--loss": st.sampled_from(sorted(criteria.LOSSES)),
    "--batch_mining": st.sampled_from(sorted(batchminer.MINERS)),
    "--data_sampler": st.sampled_from(sorted(datasampler.SAMPLERS)),
    "--dataset": st.sampled_from(["cub200", "cars196", "online_products", "in-shop", "x"]),
    "--arch": st.sampled_from(["resnet18_normalize", "bninception", "resnet50_frozen_normalize"]),
    "--augmentation": st.sampled_from(["base", "big"]),
    "--evaltypes": st.sampled_from([["all"], ["discriminative", "all"]]),
    "--optim": st.sampled_from(["sgd", "adam"]),
    "--seed": st.integers(0, 9), "--bs": st.sampled_from([7, 8, 112]),
    "--diva_rho_decorrelation": st.lists(st.integers(0, 9), min_size=1, max_size=3),
})


@settings(max_examples=150, deadline=None)
@given(COMMANDS)
def test_resolving_what_is_resolved_changes_nothing(command):
    argv = []
    for flag, value in command.items():
        argv += [flag, *map(str, value if isinstance(value, list) else [value])]
    try:
        opt = resolve(parameters.parse(argv))
    except UserError:
        return
    assert resolve(opt) == opt
    assert resolve(Namespace(**json.loads(json.dumps(vars(opt))))) == opt


# Resuming.

@pytest.fixture
def run(tmp_path):
    """run(*argv) -> the folder of a run with these options, and the options."""

    def start(*argv):
        opt = options("--save_path", tmp_path, *argv)
        (tmp_path / "options.json").write_text(json.dumps(parameters.public(opt)))
        return tmp_path, opt

    return start


def test_resume_takes_every_option_from_the_run(run):
    folder, opt = run(*METHOD, "--evaltypes", "all", "--dataset", "online_products", "--seed", 5,
                      "--loss", "triplet", "--crop_size", 64, "--device", "cpu", "--use_sgd")
    again = options("--resume", folder)
    assert again.resume == str(folder)
    changed = {"resume": str(folder), "given": sorted([*opt.given, "resume"])}
    assert again == Namespace(**(vars(opt) | changed))
    twice = Namespace(**parameters.public(again))
    (folder / "options.json").write_text(json.dumps(vars(twice)))
    assert options("--resume", folder) == again


@pytest.mark.parametrize("begun, given, size, metric", [
    ([], ["--crop_size", 112], (112, 128), "mAP_c"),
    ([], ["--crop_size", 448], (448, 512), "mAP_c"),
    ([], ["--augmentation", "big"], (256, 256), "mAP_c"),
    (["--dataset", "online_products"], ["--dataset", "cub200"], (224, 256), "mAP_c"),
    (["--crop_size", 112], ["--augmentation", "big"], (112, 112), "mAP_c"),
    (["--crop_size", 112], ["--crop_size", 224], (224, 256), "mAP_c"),
    (["--resize", 300], ["--crop_size", 112], (112, 300), "mAP_c"),
    (["--crop_size", 112], ["--precision", "bf16"], (112, 128), "mAP_c"),
    ([], ["--dataset", "online_products"], (224, 256), "mAP"),
    (["--evaluation_metrics", "f1"], ["--dataset", "online_products"], (224, 256), "f1")])
def test_what_follows_from_given_options_follows_when_a_checkpoint_is_evaluated(
        run, begun, given, size, metric):
    folder, _ = run(*begun)
    checkpoint = ["--evaluate_only", "--checkpoint", folder / "checkpoint_last.pth.tar"]
    opt = options(*checkpoint, *given)
    assert (opt.crop_size, opt.resize) == size
    assert opt.evaluation_metrics[-1] == metric


def test_evaltypes_follow_from_the_dataset_on_which_a_checkpoint_is_evaluated(run):
    features = ["selfsimilarity", "shared", "intra", "dc"]      # without discriminative: all
    folder, opt = run("--diva_features", *features, "--dataset", "online_products")
    checkpoint = ["--evaluate_only", "--checkpoint", folder / "checkpoint_last.pth.tar"]
    assert options(*checkpoint).evaltypes == opt.evaltypes
    other = options("--diva_features", *features, "--dataset", "cub200").evaltypes
    assert options(*checkpoint, "--dataset", "cub200").evaltypes == other != opt.evaltypes


def test_the_home_folder_is_known_when_a_run_is_resumed(run, monkeypatch):
    folder, _ = run()
    monkeypatch.setenv("HOME", str(folder.parent))
    assert options("--resume", f"~/{folder.name}").resume == str(folder)


def test_resume_lets_what_may_change_change(run):
    folder, opt = run("--n_epochs", 10, "--kernels", 4)
    again = options("--resume", folder, "--n_epochs", 20, "--kernels", 0, "--device", "cpu",
                    "--wandb_key", "k")
    assert (again.n_epochs, again.kernels, again.device, again.wandb_key) == (20, 0, "cpu", "k")
    assert again.bs == opt.bs


@pytest.mark.parametrize("begun, again, on_gpu, on_cpu", [
    ([], ["--evaluate_on_cpu"], False, True),
    (["--evaluate_on_gpu"], ["--evaluate_on_cpu"], False, True),
    (["--evaluate_on_gpu"], ["--device", "cpu"], False, False),
    (["--evaluate_on_cpu"], ["--evaluate_on_gpu"], True, False)])
def test_a_resumed_run_may_measure_elsewhere(run, begun, again, on_gpu, on_cpu):
    folder, _ = run(*begun)
    opt = options("--resume", folder, *again)
    assert (opt.evaluate_on_gpu, opt.evaluate_on_cpu) == (on_gpu, on_cpu)


@pytest.mark.parametrize("same", [
    ["--lr", "0.00001"], ["--evaltypes", "all"], [*METHOD], ["--diva_rho_decorrelation", "9"],
    ["--crop_size", "224"], ["--savename", "group_plus_seed"], ["--optim", "adam"],
    ["--tau", "3", "7"], ["--diva_dance", "released"]])
def test_resume_accepts_flags_that_mean_what_the_run_has(run, same):
    folder, opt = run(*METHOD, "--evaltypes", "all", "--diva_rho_decorrelation", 9, "--tau", 3, 7)
    again = options("--resume", folder, *same)
    assert vars(again) | {"resume": None, "given": opt.given} == vars(opt)


@pytest.mark.parametrize("flag, line", [
    (["--lr", "0.1"], "--lr: 0.1 given, but the run in '{}' has 1e-05"),
    (["--diva_features", "intra"],
     "--diva_features: intra given, but the run in '{}' has discriminative"),
    (["--evaluate_only"], "--evaluate_only: True given, but the run in '{}' has False"),
    (["--dataset", "cars196"], "--dataset: 'cars196' given, but the run in '{}' has 'cub200'"),
    (["--crop_size", "64"], "--crop_size: 64 given, but the run in '{}' has 224"),
    (["--tau", "5", "8"], "--tau: 5 8 given, but the run in '{}' has 10000"),
])
def test_resume_refuses_other_differences(run, capsys, flag, line):
    folder, _ = run()
    with pytest.raises(SystemExit) as end:
        options("--resume", folder, *flag)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"diva_main.py: error: {line.format(folder)}; on resume may change: --n_epochs, --kernels, "
        "--device, --gpu, --evaluate_on_gpu, --evaluate_on_cpu, --source_path, "
        "--skip_broken_images, --plots, --map, "
        "--save_every, --wandb_key, --wandb_mode\n")


@pytest.mark.parametrize("content", [
    None, "", "{", "[]", '{"unknown_option": 1}', '{"lr": "fast"}', '{"tau": 5}', '{"tau": ["a"]}',
    '{"bs": 1.5}', '{"use_sgd": 1}', '{"bs": true}', '{"loss": null}', '{"given": ["nonsense"]}',
    '{"given": 5}', '{"given": [[]]}', '{"pml_loss_args": 3}', "\udcff", "[" * 100000])
def test_resume_refuses_a_folder_without_a_runs_options(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "options.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit) as end:
        options("--resume", tmp_path)
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert told.startswith("diva_main.py: error: --resume: ") and told.count("\n") == 1
    assert f"{str(tmp_path / 'options.json')!r}" in told


def test_resume_checks_the_stored_values(tmp_path, capsys):
    (tmp_path / "options.json").write_text('{"lr": -3}')
    with pytest.raises(SystemExit):
        options("--resume", tmp_path)
    assert capsys.readouterr().err == (
        "diva_main.py: error: --lr: -3 given; accepted: a number above 0\n")


def test_resume_fills_options_that_an_older_version_lacked(tmp_path):
    (tmp_path / "options.json").write_text('{"bs": 30}')
    assert (options("--resume", tmp_path).bs, options("--resume", tmp_path).lr) == (30, 1e-5)
