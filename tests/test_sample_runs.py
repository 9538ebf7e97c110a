"""SampleRuns: every command is read, and those of the published runs have the published values."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parameters import read_arguments
from tests import trees
from tests.benchmarks import study

FOLDER = Path(__file__).parent.parent / "SampleRuns"
FOUR = ["discriminative", "selfsimilarity", "shared", "intra"]


def commands(script, datapath="/data"):
    """The options of each diva_main.py command in `script`, run without further flags."""
    text = (FOLDER / script).read_text().replace("\\\n", " ")
    for line in re.findall(r"^\s*python diva_main\.py (.*)$", text, re.MULTILINE):
        words = shlex.split(line.replace("$datapath", datapath))
        yield read_arguments([word for word in words if word not in ("${@:2}", "$@")])


def echoed(script, *words, cwd, **environment):
    """What `script` would run, a line for each command, in place of running it."""
    done = subprocess.run([FOLDER / script, *words], cwd=cwd, capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHON": "echo", **environment})
    return done.stdout.splitlines()


R50, IBN = "resnet50_frozen_normalize", "bninception_normalize"
# (script, position in it): dataset, group, arch, epochs, tau, gamma, alpha, rho, key batches, seed
PUBLISHED = {
    ("CUB200.sh", 0): ("cub200", "CUB_DiVA-R50-512", R50, 350, 55, 0.2, 0.3, 1500, 30, 0),
    ("CUB200.sh", 1): ("cub200", "CUB_DiVA-IBN-512", IBN, 350, 70, 0.3, 0.1, 300, 30, 0),
    ("CARS196.sh", 0): ("cars196", "CAR_DiVA-R50-512", R50, 350, 70, 0.2, 0.15, 100, 30, 0),
    ("CARS196.sh", 1): ("cars196", "CAR_DiVA-IBN-512", IBN, 350, 160, 0.3, 0.15, 100, 30, 1),
    ("SOP.sh", 0): ("online_products", "SOP_DiVA-R50-512", R50, 150, 70, 0.3, 0.2, 150, 70, 0),
    ("SOP.sh", 1): ("online_products", "SOP_DiVA-IBN-512", IBN, 150, 80, 0.3, 0.1, 150, 70, 0),
}


@pytest.mark.parametrize("script, position", PUBLISHED)
def test_published_runs(script, position):
    opt = list(commands(script))[position]
    assert (opt.dataset, opt.group, opt.arch, opt.n_epochs, *opt.tau, opt.gamma, opt.diva_alpha_ssl,
            opt.diva_rho_decorrelation[0], opt.diva_moco_n_key_batches, opt.seed) \
        == PUBLISHED[script, position]
    assert opt.diva_alpha_ssl == opt.diva_alpha_shared == opt.diva_alpha_intra
    assert len(opt.diva_rho_decorrelation) == 3 and len(set(opt.diva_rho_decorrelation)) == 1
    assert opt.diva_features == FOUR and len(opt.evaltypes) >= 3
    assert all(e.startswith("Combined_" + "_".join(FOUR)) for e in opt.evaltypes)
    assert (opt.diva_ssl, opt.diva_sharing) == ("fast_moco", "random")
    assert opt.diva_moco_temperature == 0.01
    assert (opt.loss, opt.batch_mining, opt.samples_per_class) == ("margin", "distance", 2)
    assert (opt.embed_dim, opt.bs, opt.lr, opt.source_path) == (128, 112, 1e-5, "/data")
    assert opt.log_online and opt.project == "DiVA_SampleRuns"


def test_deep_clustering_run():
    opt, = commands("DeepClustering.sh")
    assert (opt.dataset, opt.arch, opt.n_epochs, opt.seed) == ("cub200", IBN, 200, 0)
    assert (opt.diva_features, opt.embed_dim, opt.bs) == (["discriminative", "dc"], 256, 104)
    assert (opt.diva_dc_update_f, opt.diva_dc_ncluster) == (2, 300)
    assert opt.diva_decorrelations == []  # as the original: none beside dc, whatever rho is
    assert (opt.loss, opt.batch_mining, opt.samples_per_class) == ("margin", "distance", 2)
    assert (opt.diva_ssl, opt.diva_sharing, opt.diva_moco_temperature) == (
        "fast_moco", "random", 0.01)
    assert all(e.startswith("Combined_discriminative_dc") for e in opt.evaltypes)
    assert opt.log_online and (opt.project, opt.group) == ("DiVA_Experiments", "CUB_DC-IBN-512")


def test_quickstart_is_the_method_on_the_embedded_data():
    opt, = commands("Quickstart.sh")
    assert (opt.dataset, opt.diva_features, opt.device) == ("glyphs", FOUR, "cpu")
    assert opt.not_pretrained and not opt.log_online
    assert opt.source_path == os.path.abspath("Datasets")
    assert opt.save_path == os.path.abspath("Training_Results")


def sweep(client_utilities):
    """The sweep as the client reads it, and {parameter: a value that it may draw}."""
    config = client_utilities.load_sweep_config(str(FOLDER / "wandb_sweep.yaml"))
    return config, {name: given["value"] if "value" in given else (given["min"] + given["max"]) / 2
                    for name, given in config["parameters"].items()}


def test_the_sweep_asks_for_runs_that_log_what_it_maximises():
    """The words are made by the client, as its agent makes them."""
    utilities = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    config, drawn = sweep(utilities)
    assert config["command"] == ["${env}", "${interpreter}", "${program}",
                                 "${args_no_boolean_flags}"]
    made = utilities.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in drawn.items()}})
    opt = read_arguments(made["args_no_boolean_flags"])
    evaltype, = opt.evaltypes
    assert config["metric"] == {"goal": "maximize",
                                "name": f"Val: {evaltype}_e_recall: {opt.storage_metrics[0]}"}
    assert "." not in evaltype      # W&B takes a dot for a level of a nested key
    assert opt.log_online and opt.train_val_split == 0.8 and opt.train_val_split_by_class
    assert set(opt.diva_rho_decorrelation) == {1505} and opt.diva_features == FOUR
    assert opt.evaluation_metrics == ["e_recall@1", "nmi", "mAP_c"]
    weights = {name: given for name, given in config["parameters"].items() if "min" in given}
    assert set(weights) == {"diva_rho_decorrelation", "diva_alpha_ssl", "diva_alpha_shared",
                            "diva_alpha_intra"}


@pytest.mark.parametrize(("word", "values"), [
    ("--tau=[55, 70]", [55, 70]), ("--tau=[55]", [55]), ("--tau=55", [55])])
def test_a_list_of_an_agent_is_a_list(word, values):
    assert read_arguments([word]).tau == values
    features = read_arguments(["--diva_features=['discriminative', 'shared']"]).diva_features
    assert features == ["discriminative", "shared"]


def test_every_script_is_known_and_executable():
    scripts = {path.name for path in FOLDER.glob("*.sh")}
    assert scripts == {s for s, _ in PUBLISHED} | {"DeepClustering.sh", "Quickstart.sh",
                                                   "Pictures.sh", "RealityCheck.sh",
                                                   "Reproduce.sh", "Slurm.sh", "Study.sh",
                                                   "ViT.sh"}
    assert all(os.access(FOLDER / script, os.X_OK) for script in scripts)


@pytest.mark.parametrize("script", ["CUB200.sh", "CARS196.sh", "SOP.sh", "DeepClustering.sh"])
def test_scripts_pass_on_folder_and_further_flags(script, tmp_path):
    (tmp_path / "my data").mkdir()
    done = subprocess.run([FOLDER / script, "my data", "--n_epochs", "1", "--group", "a b"],
                          cwd=tmp_path, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHON": "echo"})
    for line in done.stdout.splitlines():
        assert f"--source_path {tmp_path / 'my data'} " in line
        assert line.endswith("--n_epochs 1 --group a b")
    assert len(done.stdout.splitlines()) == len(list(commands(script)))


@pytest.mark.parametrize("script", ["CUB200.sh", "CARS196.sh", "SOP.sh", "DeepClustering.sh"])
@pytest.mark.parametrize("given", ["data", "not there", "{}/not there"])
def test_a_folder_reaches_the_program_absolute_whether_it_exists_or_not(script, given, tmp_path):
    """The program then says what is missing. CDPATH, where set, makes `cd` print and go astray."""
    (tmp_path / "data").mkdir()
    (tmp_path / "astray" / "SampleRuns").mkdir(parents=True)
    (tmp_path / "SampleRuns").symlink_to(FOLDER)
    done = subprocess.run(
        ["bash", f"SampleRuns/{script}", given.format(tmp_path)], cwd=tmp_path,
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHON": "echo", "CDPATH": f"{tmp_path / 'astray'}:{tmp_path}"})
    assert done.stderr == ""
    folder = tmp_path / given.format(tmp_path)
    assert len(done.stdout.splitlines()) == len(list(commands(script)))
    for line in done.stdout.splitlines():
        assert line.startswith("diva_main.py ") and f"--source_path {folder} " in line


@pytest.mark.parametrize(("given", "seeds"), [((), range(5)), (("3", "12"), (3, 12))])
def test_the_published_runs_are_reproduced_over_seeds_and_resumed(given, seeds, tmp_path):
    (tmp_path / "my data").mkdir()
    begun = tmp_path / "my runs" / "cub200" / "CUB_DiVA-IBN-512_s3_1"
    begun.mkdir(parents=True)
    (begun.parent / "CUB_DiVA-IBN-512_s3").mkdir()      # ended before its first epoch did
    (begun / "checkpoint_last.pth.tar").touch()
    *commands, summary = echoed("Reproduce.sh", "my data", *given, "--n_epochs", "1", cwd=tmp_path,
                                RESULTS="my runs")
    assert summary == f"-m evaluation.summarize {tmp_path / 'my runs'}"
    assert len(commands) == 6 * len(seeds)
    for seed, position in itertools.product(range(len(seeds)), range(6)):
        line = commands[6 * seed + position]
        if (seeds[seed], position) == (3, 1):
            assert line == f"diva_main.py --resume {begun}"
            continue
        dataset, group = list(PUBLISHED.values())[position][:2]
        assert line.startswith(
            f"diva_main.py --dataset {dataset} --source_path {tmp_path / 'my data'} ")
        assert f" --group {group} " in line
        assert line.endswith(
            f" --n_epochs 1 --seed {seeds[seed]} --save_path {tmp_path / 'my runs'}")


# Of the ViT runs: training images and classes, images a batch and of a class, steps of the recipe,
# and the options that are those of DiVA's run on a ResNet50.
VIT = {"cub200": (5864, 100, 900, 9, 50, ("CUB200.sh", 0)),
       "cars196": (8054, 98, 882, 9, 300, ("CARS196.sh", 0)),
       "online_products": (59551, 11318, 900, 2, 5000, ("SOP.sh", 0)),
       "in-shop": (25882, 3997, 900, 2, 3200, ("SOP.sh", 0))}


@pytest.mark.parametrize("chosen", [(), ("in-shop", "cub200")], ids=str)
def test_the_vit_runs_have_the_recipe_of_hyperbolic_vits(tmp_path, chosen):
    lines = [line.replace(str(tmp_path / "my data"), "/data") for line in
             echoed("ViT.sh", "my data", *chosen, "--seed", "3", cwd=tmp_path)]
    runs = [read_arguments(shlex.split(line)[1:]) for line in lines]
    assert [opt.dataset for opt in runs] == list(chosen or VIT)
    for opt in runs:
        n_images, n_classes, bs, of_class, n_steps, (script, position) = VIT[opt.dataset]
        published = list(commands(script))[position]
        assert opt.arch == "timm:vit_small_patch16_224.dino_normalize" and opt.crop_size == 224
        assert (opt.optim, opt.lr, opt.fc_lr, opt.decay, opt.scheduler, opt.warmup_epochs) == (
            "adamw", 1e-5, -1, 0.01, "none", 0)
        assert (opt.clip_grad, opt.bs, opt.samples_per_class) == (3, bs, of_class)
        assert opt.data_sampler == "class_random_unique" and bs // of_class <= n_classes
        assert 0 <= opt.n_epochs * (n_images // bs) - n_steps < n_images // bs
        for name in ("diva_features", "diva_alpha_ssl", "diva_alpha_shared", "diva_alpha_intra",
                     "diva_rho_decorrelation", "loss", "batch_mining", "embed_dim"):
            assert getattr(opt, name) == getattr(published, name), name
        assert opt.seed == 3 and opt.source_path == "/data"
        assert 0.9 < opt.bs * opt.diva_moco_n_key_batches / (
            published.bs * published.diva_moco_n_key_batches) < 1.1


def test_the_studys_runs_are_comparable(tmp_path):
    """The same epochs, batches and rates in all, and 512 dimensions beside the parts."""
    lines = [line for line in echoed("Study.sh", "my data", cwd=tmp_path)
             if line.startswith("diva_main.py")]
    every = [read_arguments(shlex.split(line.replace("my data", "data"))[1:]) for line in lines]
    assert len({opt.savename for opt in every}) == len(every) == 79
    found = {(opt.group, evaltype) for opt in every for evaltype in opt.evaltypes}
    assert found >= set(itertools.chain.from_iterable(study.PAIRS))
    photographs = [opt for opt in every if opt.dataset == "grocery"]
    assert {(opt.bs, opt.samples_per_class, opt.crop_size, opt.arch) for opt in photographs} == {
        (100, 4, 96, "timm:tf_efficientnet_lite0_frozen_normalize")}
    reported = [opt for opt in photographs if opt.val_folds is None]
    assert len({(opt.lr, opt.fc_lr) for opt in reported}) == 1
    for opt in reported:
        assert opt.n_epochs == opt.evaluate_every == (8 if opt.group.endswith("_long") else 4)
    assert {opt.embed_dim * len(opt.diva_features) for opt in reported} == {512}
    assert all(opt.val_fold == 0 for opt in photographs if opt.val_folds)


@pytest.mark.parametrize("script", ["CUB200.sh", "CARS196.sh", "SOP.sh", "DeepClustering.sh",
                                    "RealityCheck.sh", "Reproduce.sh", "Study.sh", "ViT.sh"])
def test_scripts_say_what_they_want(script):
    done = subprocess.run(["bash", FOLDER / script], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("usage: bash ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("given", "dataset", "found"), [
    ((), "cub200", [17.97, 75.66, 0.77, 0.39]),
    (("cars196",), "cars196", [7.49, 47.99, 0.63, 0.72]),
    (("online_products",), "online_products", [15.94, 156.61, 0.72, 0.34])])
def test_the_reality_check_trains_each_fold_resumes_it_and_measures_them_together(
        given, dataset, found, tmp_path):
    begun = tmp_path / "my runs" / dataset / "fold2_1"
    begun.mkdir(parents=True)
    (begun.parent / "fold2").mkdir()        # ended before its first epoch did
    (begun / "checkpoint_last.pth.tar").touch()
    *trained, ensemble = echoed("RealityCheck.sh", "data", *given, "--n_epochs", "1", cwd=tmp_path,
                                RESULTS="my runs")
    assert ensemble == f"-m evaluation.ensemble {tmp_path / 'my runs' / dataset}"
    assert trained.pop(2) == f"diva_main.py --resume {begun} --n_epochs 1"
    for fold, line in zip((0, 1, 3), trained, strict=True):
        words = line.replace("my runs", "my_runs").split()
        opt = read_arguments(words[words.index("--dataset"):])
        assert (opt.dataset, opt.source_path) == (dataset, str(tmp_path / "data"))
        assert (opt.val_folds, opt.val_fold, opt.savename) == (4, fold, f"fold{fold}")
        assert opt.save_path == str(tmp_path / "my_runs") and opt.n_epochs == 1
        assert opt.storage_metrics == ["mAP_r"] and opt.arch == "bninception_frozen_normalize"
        assert (opt.embed_dim, opt.bs, opt.samples_per_class) == (128, 32, 4)
        assert [getattr(opt, f"loss_multisimilarity_{name}") for name in (
            "pos_weight", "neg_weight", "thresh", "margin")] == found


@pytest.mark.slow
def test_the_reality_check_runs_as_it_stands(tmp_path):
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=16, n_images=4)
    command = [FOLDER / "RealityCheck.sh", "data", "tiny", "--arch", "squeezenet1_1_normalize",
               "--not_pretrained", "--crop_size", "32", "--n_epochs", "1", "--bs", "8", "--kernels",
               "0", "--device", "cpu", "--plots", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHON": sys.executable, "RESULTS": "runs"})
    table = done.stdout.splitlines()[-8:]
    assert table[0].split() == ["Test,", "4", "runs", "e_recall@1", "r_precision", "mAP_r"]
    assert [line.split(":")[0] for line in table[1:5]] == [f"fold{fold}" for fold in range(4)]
    assert table[-1].startswith("concatenated, 512 dimensions ")


@pytest.fixture
def slurm(tmp_path):
    """slurm(*words) -> the script's process, among commands that print or note what they are given;
    `srun` runs until it is stopped where there is a file `wait`."""
    tools = {"srun": 'echo "$@"; trap "exit 143" TERM; while [ -e wait ]; do sleep 0.05; done',
             "scontrol": 'echo "$@" >> asked; echo machine1; echo machine2'}
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                   "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "machine[1-2]",
                   "SLURM_JOB_NUM_NODES": "2"}
    return lambda *words: subprocess.Popen(
        ["bash", FOLDER / "Slurm.sh", *words], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_slurm_starts_the_published_run_on_all_machines(slurm, tmp_path):
    printed, told = slurm("data", "--n_epochs", "3").communicate()
    launcher, _, words = printed.partition(" diva_main.py ")
    assert told == "" and launcher == (
        "torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_id 7 "
        "--rdzv_endpoint machine1:29500")
    opt = read_arguments(shlex.split(words))
    published, _ = commands("CUB200.sh", str(tmp_path / "data"))
    differ = {name for name, value in vars(opt).items() if value != getattr(published, name)}
    assert differ == {"n_epochs", "savename", "save_path", "given", "log_online", "project",
                      "group"} and opt.n_epochs == 3


def test_a_preempted_slurm_job_is_queued_again_and_resumes(slurm, tmp_path):
    folder = tmp_path / "Training_Results/cub200/CUB_DiVA-R50-512_7"
    folder.mkdir(parents=True)
    (folder / "options.json").touch()
    (tmp_path / "wait").touch()
    process = slurm("data")
    assert process.stdout.readline().endswith(f" diva_main.py --resume {folder}\n")
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "requeue 7"


# The options of each distinct form among the published commands of the base, seeds left out.
# (Five more, whose --group has a blank in it, were never readable.)
BASE = ("--kernels 6 --source /data --n_epochs 150 --log_online --project RevisitDML --group {} "
        "--seed 0 --gpu 0 --bs 112 --samples_per_class 2 --loss {} --arch {} {}")
UNIT, RAW = "resnet50_frozen_normalize", "resnet50_frozen"
BASE_RUNS = [
    ("CUB_Npair", "npair", RAW, "--batch_mining npair"),
    ("CUB_GenLifted", "lifted", RAW, "--batch_mining lifted"),
    ("CUB_ProxyNCA", "proxynca", UNIT, ""),
    ("CUB_Histogram", "histogram", UNIT, "--loss_histogram_nbins 65"),
    ("CUB_Contrastive", "contrastive", UNIT, "--batch_mining distance"),
    ("CUB_SoftTriple", "softtriplet", UNIT, ""),
    ("CUB_Angular", "angular", RAW, "--batch_mining npair"),
    ("CUB_ArcFace", "arcface", UNIT, ""),
    ("CUB_Triplet_Random", "triplet", UNIT, "--batch_mining random"),
    ("CUB_Triplet_Semihard", "triplet", UNIT, "--batch_mining semihard"),
    ("CUB_Triplet_Softhard", "triplet", UNIT, "--batch_mining softhard"),
    ("CUB_Triplet_Distance", "triplet", UNIT, "--batch_mining distance"),
    ("CUB_Quadruplet_Distance", "quadruplet", UNIT, "--batch_mining distance"),
    ("CUB_Margin_b06_Distance", "margin", UNIT, "--batch_mining distance --loss_margin_beta 0.6"),
    ("CUB_Margin_b12_Distance", "margin", UNIT, "--batch_mining distance"),
    ("CUB_SNR_Distance", "snr", UNIT, "--batch_mining distance"),
    ("CUB_MS", "multisimilarity", UNIT, ""),
    ("CUB_Softmax", "softmax", UNIT, "--batch_mining distance"),
    ("CUBreg_Contrastive", "contrastive", UNIT,
     "--batch_mining rho_distance --miner_rho_distance_cp 0.4"),
    ("CUBreg_Margin_b06_Distance", "margin", UNIT,
     "--batch_mining rho_distance --miner_rho_distance_cp 0.4 --loss_margin_beta 0.6"),
    ("CUBreg_Margin_b12_Distance_3", "margin", UNIT,
     "--batch_mining rho_distance --miner_rho_distance_cp 0.35"),
    ("CUBreg_Triplet_Distance_3", "triplet", UNIT,
     "--batch_mining rho_distance --miner_rho_distance_cp 0.4"),
    ("SOPreg_SNR_Distance", "snr", UNIT,
     "--batch_mining rho_distance --miner_rho_distance_cp 0.15 --dataset online_products"),
    ("CARS_MS", "multisimilarity", UNIT, "--dataset cars196"),
]


@pytest.mark.parametrize("group, loss, arch, rest", BASE_RUNS, ids=[run[0] for run in BASE_RUNS])
def test_published_commands_of_the_base_are_read(group, loss, arch, rest, capsys):
    words = shlex.split(BASE.format(group, loss, arch, rest))
    opt = read_arguments(words)
    assert (opt.group, opt.loss, opt.arch, opt.bs, opt.n_epochs) == (group, loss, arch, 112, 150)
    assert (opt.source_path, opt.kernels, opt.gpu, opt.log_online) == ("/data", 6, [0], True)
    for flag, value in zip(shlex.split(rest)[::2], shlex.split(rest)[1::2], strict=True):
        assert str(getattr(opt, flag[2:])) == value
    told = capsys.readouterr().err
    assert told == ("diva_main.py: warning: --batch_mining: 'distance' given, but --loss softmax "
                    "mines no tuples; no effect\n" if loss == "softmax" else "")
