"""Whole runs through the command line, on tiny images."""

import itertools
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

import pytest
import torch

import diva_main
import parameters
from architectures.network import Network
from criteria import dc
from tests import runs, trees, wandb_records
from tests.test_layers import ROOT

PUBLISHED = (  # as SampleRuns/CUB200.sh has it
    "--dataset cub200 --diva_ssl fast_moco --diva_sharing random --loss margin --batch_mining"
    " distance --samples_per_class 2 --diva_moco_temperature 0.01 --embed_dim 128 --evaltypes all"
    " --arch resnet50_frozen_normalize --diva_features discriminative selfsimilarity shared intra"
    " --tau 55 --gamma 0.2 --diva_alpha_ssl 0.3 --diva_alpha_shared 0.3 --diva_alpha_intra 0.3"
    " --diva_rho_decorrelation 1500 --diva_moco_n_key_batches 30 --seed 0 --log_online"
    " --project DiVA_SampleRuns --group CUB_DiVA-R50-512").split()
PICTURES = ("sample_recoveries.png", "worst_recoveries.png", "map.png", "distances.svg",
            "distances.png")
THREE_WEIGHTS = ["0.75-1.25-1.25-1.25", "0.5-1-1-1", "0.5-1.5-1.5-1.5"]


def main(*argv):
    try:
        return diva_main.main(parameters.read_arguments([str(word) for word in argv]))
    except SystemExit as stop:
        return stop.code


def test_the_published_command_leaves_everything_that_users_look_for(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=6, n_images=4)
    assert main(*PUBLISHED, "--source_path", tmp_path, "--save_path", tmp_path / "runs",
                "--not_pretrained", "--n_epochs", 2, "--bs", 4, "--crop_size", 32, "--resize", 36,
                "--diva_moco_n_key_batches", 2, "--kernels", 0, "--wandb_mode", "offline") == 0
    folder = tmp_path / "runs" / "cub200" / "CUB_DiVA-R50-512_s0"
    evaltypes = [f"Combined_discriminative_selfsimilarity_shared_intra-{w}" for w in THREE_WEIGHTS]
    for name in ("Parameter_Info.txt", "options.json", "training_summary.txt",
                 *PICTURES, "Progression_Plots/Graph_Test_all_e_recall.svg",
                 "checkpoint_last.pth.tar",
                 *(f"checkpoint_{evaltype}_e_recall@1.pth.tar" for evaltype in evaltypes)):
        assert (folder / name).stat().st_size > 0, name
    groups = ["Train_loss", "Train_sep. loss", "Train_time", "Train_epochs", "Train_Temp",
              "Model Grad_L2", "Model Grad_Max",
              *(f"Test_{e}_{m}" for e in evaltypes for m in ("e_recall", "nmi", "f1", "mAP_c"))]
    for group in groups:
        values = runs.rows(folder, group)
        assert len(values) == 2 and all(math.isfinite(v) for row in values for v in row.values())
        assert (folder / "Progression_Plots" / f"Graph_{group}.svg").exists()
    assert [*runs.rows(folder, f"Test_{evaltypes[0]}_e_recall")[0]] == [
        "e_recall@1", "e_recall@2", "e_recall@4"]
    assert runs.rows(folder, "Train_Temp")[0]["temp"] == pytest.approx(0.01)
    described = (folder / "Parameter_Info.txt").read_text()
    assert "200" in described and f"torch: {torch.__version__}" in described
    assert "git commit: " in described


def test_the_time_of_an_epoch_leaves_out_clustering_and_storage(tmp_path, monkeypatch):
    """As the original's does. Every look at the clock takes a second, either of the two 1,000."""
    clock = itertools.count()

    def slowly(original):
        def method(*arguments):
            for _ in range(1000):
                next(clock)
            return original(*arguments)
        return method

    monkeypatch.setattr("utilities.monitor.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(dc.Feature, "before_epoch", slowly(dc.Feature.before_epoch))
    monkeypatch.setattr(diva_main.Training, "fill_storage",
                        slowly(diva_main.Training.fill_storage))
    folder = runs.train(tmp_path, "--diva_features", "discriminative", "dc", "--n_epochs", 2,
                        "--data_sampler", "d2_coreset", "--data_idx_full_prec")
    assert next(clock) > 3000
    assert all(0 < row["time"] < 1000 for row in runs.rows(folder, "Train_time"))


def test_the_config_on_wandb_tells_the_versions_and_keeps_no_key(tmp_path, monkeypatch):
    wandb_records.restart(monkeypatch)
    folder = runs.train(tmp_path, "--log_online", "--wandb_key", "k" * 40)
    part, = wandb_records.parts(folder)
    config = part.config
    assert config["environment"]["torch"] == torch.__version__ and config["bs"] == 8
    assert "k" * 40 not in json.dumps(config)


def test_a_run_on_wandb_has_the_keys_of_dashboards_and_its_best_values(tmp_path, monkeypatch):
    wandb_records.restart(monkeypatch)
    folder = runs.train(
        tmp_path, "--log_online", "--group", "G", "--seed", 3, "--n_epochs", 3, "--plots", "end",
        "--diva_features", *runs.FOUR, "--evaltypes", "discriminative", "--train_val_split", 0.5,
        "--train_val_split_by_class", "--evaluation_metrics", "e_recall@1", "dists@intra")
    part, = wandb_records.parts(folder)
    last = part.history[-1]
    for key in ("Train: loss", "Train: sep. loss", "Train: time", "Train: epochs",
                "Train: Temp: temp", "Train: Loss: shared", "Model Grad: L2: Grad L2",
                "Model Grad: Max: Grad Max", "Test: discriminative_e_recall: e_recall@1",
                "Val: discriminative_e_recall: e_recall@1"):
        assert isinstance(last[key], (int, float)), key
    assert last["Sample retrievals"]["_type"] == "image-file"
    assert part.column("_step") == part.column("Train: epochs") == [0, 1, 2]
    for group, key, choose in (
            ("Val_discriminative_e_recall", "Val: discriminative_e_recall: e_recall@1", max),
            ("Test_discriminative_dists", "Test: discriminative_dists: dists@intra",
             lambda values: values[-1]),
            ("Train_loss", "Train: loss", min)):
        values = [row[key.split(": ")[-1]] for row in runs.rows(folder, group)]
        assert part.column(key) == values and part.summary[key] == choose(values)
    assert (part.run.run_group, part.run.display_name) == ("G", "G_s3")
    assert list(part.run.tags) == ["tiny", "shufflenet_v2_x0_5_normalize", "margin", *runs.FOUR]


def test_best_checkpoints_of_one_epoch_are_one_file_on_disk(tmp_path):
    folder = runs.train(tmp_path, "--diva_features", "discriminative", "shared", "--evaltypes",
                        "all", "--storage_metrics", "e_recall@1", "nmi")
    best = [path for path in folder.glob("checkpoint_*") if "last" not in path.name]
    assert len(best) == 6 and len({path.stat().st_ino for path in best}) == 1


def test_the_loss_falls_on_a_set_that_can_be_learned(tmp_path):
    folder = runs.train(tmp_path, "--n_epochs", 12, "--loss", "softmax", "--loss_softmax_lr", 1e-2,
                        "--lr", 5e-3, "--evaluation_metrics", "e_recall@1")
    losses = [row["loss"] for row in runs.rows(folder, "Train_loss")]
    assert min(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("layout", [trees.online_products, trees.in_shop])
def test_other_layouts_train_and_evaluate(tmp_path, layout):
    name = {"in_shop": "in-shop"}.get(layout.__name__, layout.__name__)
    layout(tmp_path / "data" / name)
    folder = runs.train(tmp_path, "--dataset", name, "--plots", "end")
    assert all((folder / picture).stat().st_size for picture in PICTURES)
    rows = runs.rows(folder, "Test_discriminative_e_recall")
    expected = {"online_products": ["e_recall@1", "e_recall@10", "e_recall@100"],
                "in-shop": [f"e_recall@{k}" for k in (1, 10, 20, 30, 50)]}[name]
    assert [*rows[0]] == expected


def test_pictures_of_queries_that_are_gallery_rows(tmp_path):
    """Eight of the sixteen test images are queries, and all are in the gallery."""
    rows = trees.table_rows(8, 4, queries=True)
    for row in rows[16:]:
        row["is_gallery"] = True
    trees.table(tmp_path / "data" / "shop", rows)
    folder = runs.train(tmp_path, "--dataset", "shop", "--plots", "end", "--map", "tsne")
    assert all((folder / picture).stat().st_size for picture in PICTURES)
    found = runs.last(folder)["evaluator"]["pictures"]
    assert found["map"]["n_all"] == len(found["map"]["points"]) == 16
    assert found["distances"]["counts"].sum(1).tolist() == [8 * 3, 8 * 12]


def test_validation_chooses_the_checkpoints(tmp_path, capsys):
    folder = runs.train(tmp_path, "--train_val_split", 0.5, "--train_metrics", "--bs", 4)
    assert "on the validation split" in capsys.readouterr().out
    for split in ("Train", "Val", "Test"):
        assert runs.rows(folder, f"{split}_discriminative_e_recall")


def test_a_second_run_of_one_name_gets_its_own_folder(tmp_path):
    first, second = runs.train(tmp_path), runs.train(tmp_path)
    assert second.name == f"{first.name}_1"


def test_checkpoints_hold_plain_types_and_evaluate_to_the_same_numbers(tmp_path, capsys):
    folder = runs.train(tmp_path)
    best = folder / "checkpoint_discriminative_e_recall@1.pth.tar"
    content = torch.load(best, weights_only=True)
    assert content["epoch"] == 0 and content["options"]["dataset"] == "tiny"
    torch.load(folder / "checkpoint_last.pth.tar", weights_only=True)
    recall = runs.rows(folder, "Test_discriminative_e_recall")[0]["e_recall@1"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    for file in (best, folder / "checkpoint_last.pth.tar"):
        assert main(*runs.arguments(tmp_path, "--evaluate_only", "--checkpoint", file)) == 0
        assert f"{recall:.4f}" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert runs.folders(tmp_path) == {folder}


def test_a_checkpoint_is_evaluated_as_its_run_did(tmp_path, capsys):
    """Without a flag but the machine's, also away from its run; a metric that is asked for is
    computed."""
    folder = runs.train(tmp_path, "--diva_features", *runs.FOUR, "--evaltypes", "shared",
                        "--train_val_split", 0.5, "--bs", 4, "--augmentation", "red")
    expected = capsys.readouterr().out.split("Test, epoch 0")[1].splitlines()[1].split()
    file = folder / "checkpoint_last.pth.tar"
    for path in (file, shutil.copy(file, tmp_path / "copied.pth.tar")):
        assert main("--evaluate_only", "--checkpoint", path, "--kernels", 0) == 0
        told = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert expected in told and any(line[:1] == ["Val"] for line in told)
    assert main("--evaluate_only", "--checkpoint", file, "--kernels", 0, "--evaltypes", "all",
                "--evaluation_metrics", "mAP_r") == 0
    told = capsys.readouterr().out
    assert "mAP_r" in told and "nmi" not in told and "Combined_" in told


def test_an_ensemble_is_evaluated_head_by_head_and_combined(tmp_path, capsys):
    names = ["discriminative", "ensemble_1", "ensemble_2", "ensemble_3"]
    folder = runs.train(tmp_path, "--diva_features", *names, "--evaltypes", "all", "ensemble_2",
                        "Combined_ensemble_3_discriminative-1-0.5", "--diva_decorrelations",
                        "ensemble_1-discriminative", "--evaluation_metrics", "e_recall@1")
    assert [*runs.rows(folder, "Train_Loss_2")[0]] == [*names, "sep. loss"]
    joined = "_".join(names)
    evaltypes = [f"Combined_{joined}-0.5-1-1-1", "ensemble_2",
                 "Combined_ensemble_3_discriminative-1-0.5"]
    for evaltype in evaltypes:
        recall, = runs.rows(folder, f"Test_{evaltype}_e_recall")
        file = folder / f"checkpoint_{evaltype}_e_recall@1.pth.tar"
        capsys.readouterr()
        assert main("--evaluate_only", "--checkpoint", file, "--evaltypes", evaltype) == 0
        assert f"{recall['e_recall@1']:.4f}" in capsys.readouterr().out
    runs.resume(folder, "--n_epochs", 2)
    assert len(runs.rows(folder, "Test_ensemble_2_e_recall")) == 2


@pytest.mark.parametrize("name, precision", [("fp32", None), ("bf16", torch.bfloat16)])
def test_a_checkpoint_is_evaluated_in_the_precision_that_is_asked_for(tmp_path, monkeypatch, name,
                                                                     precision):
    file = runs.train(tmp_path) / "checkpoint_last.pth.tar"
    used, forward = [], Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, images: (
        used.append(self.precision), forward(self, images))[1])
    assert main("--evaluate_only", "--checkpoint", file, "--kernels", 0, "--precision", name) == 0
    assert set(used) == {precision}


def test_a_checkpoint_is_not_evaluated_as_another_network(tmp_path, capsys):
    """Beside its run's options, and with those that the file itself holds."""
    folder = runs.train(tmp_path)
    best = folder / "checkpoint_discriminative_e_recall@1.pth.tar"
    moved = best.rename(tmp_path / "moved.pth.tar")
    for file in (folder / "checkpoint_last.pth.tar", moved):
        for name, value, stored in (("arch", "shufflenet_v2_x0_5", runs.TINY[1]),
                                 ("embed_dim", "8", "16")):
            capsys.readouterr()
            assert main(*runs.arguments(tmp_path, "--evaluate_only", "--checkpoint", file,
                                        f"--{name}", value)) == 2
            line, = capsys.readouterr().err.splitlines()
            assert line.startswith(f"diva_main.py: error: --{name}: ")
            assert line.endswith(f"accepted: --{name} {stored}")


def test_evaluating_needs_no_batch_of_training_images(tmp_path):
    folder = runs.train(tmp_path)
    assert main("--evaluate_only", "--checkpoint", folder / "checkpoint_last.pth.tar", "--bs", 112,
                "--kernels", 0) == 0


def test_a_wrong_network_is_refused_before_characters_are_rendered(tmp_path, capsys):
    assert main("--dataset", "glyphs", "--source_path", tmp_path, "--arch", "resnet77") == 2
    assert capsys.readouterr().err.startswith("diva_main.py: error: --arch: unknown 'resnet77'")
    assert not list(tmp_path.iterdir())


def test_a_full_gpu_is_one_clear_line(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a "
                                     "total capacity of 10.00 GiB.")

    monkeypatch.setattr(diva_main.LossScaling, "backward", full)
    assert main(*runs.arguments(tmp_path)) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("diva_main.py: error: CUDA out of memory. Tried to allocate 2.00 GiB; a "
                           "smaller --bs ")


@pytest.mark.parametrize("argv, message", [
    (["--source_path", "/nowhere"], "--source_path: '/nowhere/tiny/images' does not exist"),
    (["--source_path", __file__], f"--source_path: '{__file__}/tiny/images' cannot be reached (Not "
                                  "a directory); "),
    (["--dataset", "x" * 300], "--source_path: "),
    (["--dataset", "glyphs", "--source_path", __file__], "--source_path: cannot write the glyphs"),
    (["--arch", "resnet7_normalize"], "--arch: "),
    (["--bs", "200"], "--bs: "),
    (["--weights_path", "/nowhere/weights.pth"], "--weights_path: "),
    (["--weights_path", "/" + "x" * 300], f"--weights_path: '/{'x' * 300}' cannot be reached (File "
                                          "name too long); "),
    (["--evaluate_only", "--checkpoint", "/" + "x" * 300], f"--checkpoint: '/{'x' * 300}' cannot "
                                                           "be reached (File name too long); "),
    (["--evaluate_only", "--checkpoint", "~nobody/x"], "--checkpoint: "),
    (["--loss", "pml:NoSuchLoss"], "--loss: "),
    (["--loss", "pml:NTXentLoss", "--samples_per_class", "1"],
     "--samples_per_class: 1 given, but --loss pml:NTXentLoss compares images of one class; "),
    (["--train_val_split", "0.25", "--train_val_split_by_class", "--bs", "4"],
     "--dataset: 'tiny' has 1 training class with --train_val_split 0.25, but --diva_features "
     "discriminative learns what tells 2 classes apart; accepted: at least 2 training classes"),
    (["--cache", "gpu", "--device", "auto"], "--cache: "),
])
def test_what_only_assembly_can_refuse_leaves_nothing_behind(tmp_path, capsys, argv, message):
    if "--weights_path" in argv:
        argv = [*argv, "--arch", "resnet18_normalize"]
        words = [w for w in runs.arguments(tmp_path, *argv) if w != "--not_pretrained"]
    else:
        words = runs.arguments(tmp_path, *argv)
    if "gpu" in argv and torch.cuda.is_available():
        pytest.skip("this machine has the GPU that is asked for")
    assert main(*words) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith(f"diva_main.py: error: {message}"), error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("term", ["loss", "gradient", "weight"])
def test_what_is_not_finite_ends_the_run_and_names_the_batch(tmp_path, capsys, monkeypatch, term):
    """Found at the next read, before a checkpoint: the third step of the second epoch is bad."""
    steps = []

    def spoil(*arguments):
        steps.append(None)
        original(*arguments)
        if len(steps) == 5:
            training = kept[0]
            if term == "loss":
                with torch.no_grad():
                    training.objective[0].criterion.beta.fill_(math.inf)
            elif term == "weight":
                with torch.no_grad():
                    next(training.network.parameters()).view(-1)[0] = math.nan

    kept, build = [], diva_main.Training.__init__
    monkeypatch.setattr(diva_main.Training, "__init__",
                        lambda self, *a: (build(self, *a), kept.append(self))[0])
    original = diva_main.LossScaling.step
    monkeypatch.setattr(diva_main.LossScaling, "step", spoil)
    if term == "gradient":
        statistics = diva_main.gradient_statistics
        monkeypatch.setattr(diva_main, "gradient_statistics", lambda *parameters: {
            name: value if len(steps) != 5 else value * math.nan
            for name, value in statistics(*parameters).items()})
    words = runs.arguments(tmp_path, "--n_epochs", 5, "--bs", 4, "--log_every", 3)
    assert main(*words) == 1
    folder, = runs.folders(tmp_path)
    report = json.loads((folder / "not_finite.json").read_text())
    assert report["epoch"] == 1
    assert len(report["files"]) == 4 and all(os.path.exists(file) for file in report["files"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("diva_main.py: error: ") and "is not finite in epoch 1" in error
    last = torch.load(folder / "checkpoint_last.pth.tar", weights_only=True)
    assert last["epoch"] == 1
    assert all(value.isfinite().all() for value in last["state_dict"].values())


@pytest.mark.parametrize("arch, why", [
    ("", "so large that float32 does not hold their squared distances"),
    ("_normalize", "not finite")])
def test_embeddings_that_diverge_end_the_run_with_its_last_good_checkpoint(
        tmp_path, capsys, arch, why):
    """The one step of the second epoch makes the head's weights so large that squares overflow."""
    words = runs.arguments(tmp_path, "--arch", f"shufflenet_v2_x0_5{arch}", "--optim", "sgd",
                           "--bs", 16, "--lr", 1e-30, "--fc_lr", 1e-3, "--scheduler", "exp",
                           "--gamma", 1e25, "--n_epochs", 3)
    assert main(*words) == 1
    folder, = runs.folders(tmp_path)
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith(f"diva_main.py: error: epoch 1: the embeddings of 16 of 16 images are "
                            f"{why}, that of '")
    assert error.endswith(f"; the last good checkpoint is '{folder}/checkpoint_last.pth.tar'")
    assert runs.last(folder)["epoch"] == 1


@pytest.mark.parametrize("flag", ["--loss", "--batch_mining"])
def test_what_a_guest_raises_ends_the_run_after_the_last_whole_epoch_is_saved(
        tmp_path, capsys, monkeypatch, flag):
    """It fails in the second of two steps of the second epoch."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import losses, miners

    def dying(base):
        class Dying(base):
            steps = 0

            def forward(self, *arguments):
                self.steps += 1
                if self.steps == 4:
                    raise ValueError("too\nmuch")
                return super().forward(*arguments)

        return Dying

    monkeypatch.setattr(losses, "Dying", dying(losses.TripletMarginLoss), raising=False)
    monkeypatch.setattr(miners, "Dying", dying(miners.TripletMarginMiner), raising=False)
    monkeypatch.setattr(miners.Dying, "steps", -3)  # spent where the miner is tried
    assert main(*runs.arguments(tmp_path, "--n_epochs", 9, "--save_every", 5, flag,
                                "pml:Dying")) == 1
    folder, = runs.folders(tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"diva_main.py: error: epoch 1, step 1: {flag}: pml:Dying fails: too much; accepted: "
        f"batches that it takes (--data_sampler, --samples_per_class, --bs), or another {flag}; "
        f"the last good checkpoint is '{folder}/checkpoint_last.pth.tar'"]
    assert runs.last(folder)["epoch"] == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_the_last_epoch_and_says_how_to_resume(tmp_path, signum):
    process = subprocess.Popen(
        [sys.executable, "diva_main.py", *runs.arguments(tmp_path, "--n_epochs", 5000)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("Epoch 2"):
            break
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, error
    folder, = runs.folders(tmp_path)
    assert f"--resume {folder}" in error and "Traceback" not in error
    epochs = torch.load(folder / "checkpoint_last.pth.tar", weights_only=True)["epoch"]
    assert epochs >= 2
    for path in (folder / "CSV_Logs").iterdir():
        assert len(path.read_text().splitlines()) == 1 + epochs, path
    words = ["--resume", folder, "--n_epochs", epochs + 1]
    assert main(*words) == 0
    assert len(runs.rows(folder, "Train_loss")) == epochs + 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_on_a_terminal_show_loss_and_speed(tmp_path):
    """From the second epoch on also where an epoch is shorter than --log_every."""
    import fcntl
    import pty
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "diva_main.py", *runs.arguments(tmp_path, "--n_epochs", 3)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=child, env=os.environ | {"TQDM_MININTERVAL": "0"})
    os.close(child)
    told = b""
    try:
        while more := os.read(parent, 4096):
            told += more
    except OSError:     # the other end is closed
        pass
    os.close(parent)
    assert process.wait() == 0
    bars = re.findall(r"Epoch (\d).*?\d+batch/s, (.*?)\]", told.decode())
    assert {epoch for epoch, _ in bars} == {"0", "1", "2"}, told
    for epoch, shown in bars:
        assert re.fullmatch(r"(loss=\d+\.\d+, )?images/s=\d+", shown), shown
        assert ("loss" in shown) == (epoch != "0")


def test_output_without_a_terminal_has_no_progress_bars(tmp_path):
    done = subprocess.run([sys.executable, "diva_main.py", *runs.arguments(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"Epoch 0: loss \S+, \S+ images/s", done.stdout) and "\r" not in done.stdout
