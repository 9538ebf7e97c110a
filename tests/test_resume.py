"""A continued run ends as if it had never stopped: the same weights, rows, checkpoints, values."""

import json
import os
import shutil
import signal

import pytest
import torch

import diva_main
import parameters
from tests import runs, trees

EPOCHS = 3
EVERY_FEATURE = (
    "--diva_features", *runs.FOUR, "dc", "imrot", "invariantspread", "--diva_dc_update_f", 2,
    "--diva_decorrelations", "selfsimilarity-discriminative", "shared-intra",
    "--diva_rho_decorrelation", 10, 20, "--evaltypes", "discriminative",
    "Combined_discriminative_shared-1-0.5", "--storage_metrics", "e_recall@1", "nmi", "--tau", 2,
    "--loss_margin_beta_lr", 0.1)
SETTINGS = {
    "every feature": EVERY_FEATURE,
    "storage with momentum": ("--data_sampler", "distmoment_batchmatch", "--data_mb_mom", 0.9,
                              "--data_batchmatch_ncomps", 5, "--scheduler", "exp", "--gamma", 0.5),
    "deep clustering": ("--diva_features", "discriminative", "dc", "--diva_dc_update_f", 2,
                        "--use_sgd"),
    "learned temperature": ("--diva_features", *runs.FOUR, "--diva_moco_trainable_temp",
                            "--diva_moco_temp_lr", 0.01, "--precision", "bf16"),
    "recipe": ("--diva_features", *runs.FOUR, "--optim", "adamw", "--decay", 0.1, "--scheduler",
               "cosine", "--warmup_epochs", 2, "--clip_grad", 0.01, "--ema", 0.7,
               "--freeze_backbone", 2, "--evaluate_every", 2),
    "two workers": ("--diva_features", *runs.FOUR, "--kernels", 2),
}
MORE_SETTINGS = {
    "storage filled anew": ("--data_sampler", "d2_coreset", "--data_idx_full_prec"),
    "criterion chooses": ("--data_sampler", "criterion_batchmatch",
                          "--data_batchmatch_ncomps", 3),
    "fold": ("--val_folds", 2, "--val_fold", 1, "--bs", 4),
    "validation": ("--train_val_split", 0.5, "--bs", 4, "--fc_lr", 0.01, "--train_metrics"),
    "random miners, plots": ("--batch_mining", "semihard", "--loss", "triplet", "--plots", "epoch",
                             "--cluster_every", 2, "--data_sampler", "random"),
    "proxies": ("--loss", "oproxy", "--augmentation", "big", "--crop_size", 32, "--cache", "ram",
                "--data_sampler", "class_random_unique", "--plots", "end"),
    "short warm-up": ("--warmup_epochs", 1, "--gamma", 0.5, "--tau", 1, "--ema", 0.9, "--optim",
                      "sgd", "--clip_grad", 0.1, "--grad_cache_chunk", 3, "--arch",
                      "shufflenet_v2_x0_5_frozen_normalize"),
    "heads alone": ("--diva_features", "discriminative", "dc", "imrot", "--freeze_backbone", 3),
    "plain moco": ("--diva_features", "selfsimilarity", "--diva_ssl", "moco", "--data_sampler",
                   "rrandom", "--channels_last"),
}


@pytest.fixture
def data(tmp_path):
    """Four batches of eight an epoch."""
    trees.class_folders(tmp_path / "data" / "tiny", n_classes=8, n_images=8)
    return tmp_path


def main(*argv) -> int:
    return diva_main.main(parameters.read_arguments([str(word) for word in argv]))


def refuse(capsys, *argv) -> str:
    """The one line of the error of a command that is refused before any work."""
    capsys.readouterr()
    try:
        assert main(*argv) == 2
    except SystemExit as stop:
        assert stop.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("diva_main.py: error: ")
    return line.removeprefix("diva_main.py: error: ")


def stop_at(monkeypatch, step: int, stop=lambda: os.kill(os.getpid(), signal.SIGTERM)) -> None:
    """Calls `stop` behind the optimiser's step number `step` of what runs next."""
    taken, original = [], diva_main.LossScaling.step

    def counted(*arguments):
        original(*arguments)
        taken.append(None)
        if len(taken) == step:
            stop()

    monkeypatch.setattr(diva_main.LossScaling, "step", counted)


@pytest.mark.parametrize("setting", [
    *SETTINGS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_SETTINGS)])
def test_a_continued_run_ends_like_one_that_never_stopped(data, monkeypatch, setting):
    """Stopped within its second epoch, continued, stopped behind it, continued."""
    argv = (*(SETTINGS | MORE_SETTINGS)[setting], "--n_epochs", EPOCHS)
    whole = runs.train(data, *argv)
    steps = len(runs.assembled(data, *argv).loader)
    with monkeypatch.context() as patch:
        stop_at(patch, steps + steps // 2)
        assert main(*runs.arguments(data, *argv)) == 128 + signal.SIGTERM
    folder, = runs.folders(data) - {whole}
    assert runs.last(folder)["epoch"] == 1
    with monkeypatch.context() as patch:
        stop_at(patch, steps + 1)
        assert main("--resume", folder) == 128 + signal.SIGTERM
    assert runs.last(folder)["epoch"] == 2
    runs.resume(folder)
    assert runs.last(folder)["epoch"] == EPOCHS
    assert runs.differences(whole, folder) == []


def test_the_comparison_of_runs_sees_a_difference(data):
    """Of a seed, and of the last bit of one weight."""
    first, second = runs.train(data), runs.train(data, "--seed", 2)
    different = runs.differences(first, second)
    assert any("state_dict" in name for name in different)
    assert any("loss.csv" in name for name in different)
    copy = shutil.copytree(first, data / "copy")
    assert runs.differences(first, copy) == []
    state = runs.last(copy)
    weight = next(iter(state["state_dict"].values())).view(-1)
    weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    torch.save(state, copy / "checkpoint_last.pth.tar")
    assert len(runs.differences(first, copy)) == 1


def test_an_exception_within_an_epoch_loses_that_epoch_alone(data, monkeypatch):
    whole = runs.train(data, "--n_epochs", 2)

    def fail():
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        stop_at(patch, 7, fail)
        main(*runs.arguments(data, "--n_epochs", 2))
    folder, = runs.folders(data) - {whole}
    runs.resume(folder)
    assert runs.differences(whole, folder) == []


@pytest.mark.parametrize("cause", ["a signal", "an error", "the end"])
def test_epochs_between_writes_of_the_last_checkpoint_are_written_when_the_run_ends(
        data, monkeypatch, cause):
    whole = runs.train(data, "--n_epochs", EPOCHS)
    steps = len(runs.assembled(data).loader)

    def fail():
        raise ZeroDivisionError

    argv = ("--n_epochs", 2 if cause == "the end" else EPOCHS, "--save_every", 5)
    with monkeypatch.context() as patch:
        if cause == "a signal":
            stop_at(patch, 2 * steps + 1)
            assert main(*runs.arguments(data, *argv)) == 128 + signal.SIGTERM
        elif cause == "an error":
            stop_at(patch, 2 * steps + 1, fail)
            with pytest.raises(ZeroDivisionError):
                main(*runs.arguments(data, *argv))
        else:
            assert main(*runs.arguments(data, *argv)) == 0
    folder, = runs.folders(data) - {whole}
    assert runs.last(folder)["epoch"] == 2
    runs.resume(folder, "--n_epochs", EPOCHS, "--save_every", 1)
    assert runs.differences(whole, folder) == []


def test_the_last_checkpoint_is_written_every_so_many_epochs(data, monkeypatch):
    seen, original = [], diva_main.Training.evaluate_and_save

    def watched(self, epoch):
        original(self, epoch)
        path = self.folder / "checkpoint_last.pth.tar"
        seen.append(runs.last(self.folder)["epoch"] if path.exists() else 0)

    monkeypatch.setattr(diva_main.Training, "evaluate_and_save", watched)
    runs.train(data, "--n_epochs", 5, "--save_every", 2)
    assert seen == [0, 2, 2, 4, 4]


def test_more_epochs_for_a_finished_run(data):
    folder = runs.train(data, "--n_epochs", 1)
    runs.resume(folder, "--n_epochs", 3)
    assert runs.last(folder)["epoch"] == 3
    assert json.loads((folder / "options.json").read_text())["n_epochs"] == 3
    assert len(runs.rows(folder, "Train_loss")) == 3


def test_resuming_a_finished_run_shows_its_table_and_changes_nothing(data, capsys):
    folder = runs.train(data, "--n_epochs", 2)
    table = capsys.readouterr().out.split("\n\n")[1]
    before = shutil.copytree(folder, data / "before")
    runs.resume(folder)
    assert table in capsys.readouterr().out
    assert runs.differences(before, folder) == []


def test_a_run_killed_before_its_first_checkpoint_starts_over_in_its_folder(data, monkeypatch):
    whole = runs.train(data, "--n_epochs", 2)

    class Killed(BaseException):
        pass

    def kill(path, state):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(diva_main.checkpoint, "save", kill)  # the rows of its first epoch are written
        main(*runs.arguments(data, "--n_epochs", 2))
    folder, = runs.folders(data) - {whole}
    assert len(runs.rows(folder, "Train_loss")) == 1
    assert not (folder / "checkpoint_last.pth.tar").exists()
    runs.resume(folder)
    assert runs.differences(whole, folder) == []


def test_fewer_epochs_than_are_done_are_refused_and_change_nothing(data, capsys):
    folder = runs.train(data, "--n_epochs", 2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    error = refuse(capsys, "--resume", folder, "--n_epochs", 1)
    assert error == ("--n_epochs: 1 given, but the run has trained 2 epochs; accepted: a whole "
                     "number from 2 upwards")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_horizon_of_a_cosine_stays(data, capsys):
    folder = runs.train(data, "--n_epochs", 2, "--scheduler", "cosine")
    for n_epochs in (1, 3):
        assert refuse(capsys, "--resume", folder, "--n_epochs", n_epochs) == (
            f"--n_epochs: {n_epochs} given, but learning rates of the run in {str(folder)!r} fall "
            "by --scheduler cosine over 2 epochs; accepted: 2, or a new run")
    runs.resume(folder, "--n_epochs", 2)


def test_a_checkpoint_from_before_the_average_goes_on(data):
    """Such a file names neither the average nor the newer options."""
    whole = runs.train(data, "--n_epochs", 2)
    folder = runs.train(data, "--n_epochs", 1)
    options = json.loads((folder / "options.json").read_text())
    for name in ("ema", "warmup_epochs", "clip_grad", "freeze_backbone", "evaluate_every"):
        del options[name]
    (folder / "options.json").write_text(json.dumps(options))
    assert "trained" not in runs.last(folder)
    runs.resume(folder, "--n_epochs", 2)
    assert runs.differences(whole, folder) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "another run's"])
def test_a_damaged_last_checkpoint_is_refused_and_stays(data, capsys, damage):
    folder = runs.train(data)
    last = folder / "checkpoint_last.pth.tar"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"epoch": 3, "weights": torch.zeros(3)}, last)
    else:
        other = runs.train(data, "--embed_dim", 8)
        shutil.copy(other / last.name, last)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    error = refuse(capsys, "--resume", folder, "--n_epochs", 2)
    assert error.startswith(f"--resume: {str(last)!r} ") and "accepted: " in error
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_may_be_moved(data):
    whole = runs.train(data, "--n_epochs", 3)
    folder = runs.train(data, "--n_epochs", 2)
    moved = shutil.move(folder, data / "elsewhere")
    runs.resume(moved, "--n_epochs", 3)
    assert runs.differences(whole, moved) == [] and runs.folders(data) == {whole}


def test_lost_and_torn_csv_files_come_back(data):
    whole = runs.train(data, "--n_epochs", 3)
    folder = runs.train(data, "--n_epochs", 2)
    lost, torn, *_ = sorted((folder / "CSV_Logs").glob("Data_Test*"))
    lost.unlink()
    torn.write_bytes(torn.read_bytes()[:-3])
    runs.resume(folder, "--n_epochs", 3)
    assert runs.differences(whole, folder) == []


def test_what_may_change_changes_and_the_rest_is_refused(data, capsys):
    """Other options are read from the run; giving them anew as they are is no difference."""
    whole = runs.train(data, "--n_epochs", 2)
    folder = runs.train(data, "--n_epochs", 1)
    shutil.move(data / "data", data / "moved")
    changed = ["--n_epochs", 2, "--kernels", 1, "--device", "cpu", "--gpu", 0, "--source_path",
               data / "moved", "--plots", "end", "--wandb_mode", "offline"]
    for flag, value in (("--seed", 0), ("--bs", 4), ("--lr", 1), ("--savename", "other"),
                        ("--precision", "bf16"), ("--save_path", data)):
        error = refuse(capsys, "--resume", folder, *changed, flag, value)
        assert error.startswith(f"{flag}: ") and "on resume may change: --n_epochs" in error
    assert len(runs.rows(folder, "Train_loss")) == 1
    same = ["--seed", 1, "--bs", 8, "--embed_dim", 16, "--dataset", "tiny"]
    runs.resume(folder, *changed, *same)
    drawn = (".svg", ".png")
    assert not [name for name in runs.differences(whole, folder)
                if not name.endswith(drawn) and "['pictures']" not in name]
    assert (folder / "Progression_Plots" / "Graph_Train_loss.svg").exists()


@pytest.mark.parametrize("change", ["a training image less", "a test image more", "other names"])
def test_other_images_than_the_run_began_with_are_refused(data, capsys, change):
    folder = runs.train(data)
    images = sorted((data / "data" / "tiny" / "images").glob("[0-9]*/image_*"))
    before = (folder / "checkpoint_last.pth.tar").read_bytes()
    if change == "a training image less":
        images[0].unlink()
    elif change == "a test image more":
        shutil.copy(images[-1], images[-1].with_name("image_99.jpg"))
    else:
        images[0].rename(images[0].with_name("image_0.jpg"))
    error = refuse(capsys, "--resume", folder, "--n_epochs", 2)
    split, then, now = {"a training image less": ("training", 32, 31),
                        "a test image more": ("testing", 32, 33),
                        "other names": ("training", 32, 32)}[change]
    assert error == (f"--source_path: the {split} images are not those that the run began with: "
                     f"{then} then, {now} now, or other names; accepted: the same files")
    assert (folder / "checkpoint_last.pth.tar").read_bytes() == before


@pytest.mark.parametrize("options", [
    ("--train_val_split", 0.5, "--bs", 4), ("--diva_features", "selfsimilarity", "--evaltypes",
                                            "selfsimilarity", "--kernels", 1)], ids=str)
def test_an_image_that_breaks_late_is_named_and_can_be_left_out(data, capsys, options):
    """In training and in test; no other image changes its split."""
    folder = runs.train(data, *options)
    images = sorted((data / "data" / "tiny" / "images").glob("[0-9]*/image_*"))
    for path in (images[0], images[-1]):
        path.write_bytes(b"")
    error = refuse(capsys, "--resume", folder, "--n_epochs", 4)
    assert "cannot read the image " in error and "it is empty; --check_data lists" in error
    assert error.endswith("--skip_broken_images leaves them out, also on --resume")
    runs.resume(folder, "--n_epochs", 2, "--skip_broken_images")
    told = capsys.readouterr().out
    assert all(f"left out {str(path)!r}: it is empty" in told for path in (images[0], images[-1]))
    runs.resume(folder, "--n_epochs", 3)
    assert runs.last(folder)["epoch"] == 3
    images[1].write_bytes(b"")
    runs.resume(folder, "--n_epochs", 4)
    images[1].unlink()
    assert "images are not those that the run began with" in refuse(
        capsys, "--resume", folder, "--n_epochs", 5)


@pytest.mark.parametrize("options, message", [
    ((), "--skip_broken_images: leaves images of 3 of the run's 4 training classes; accepted: an "
         "image of each that can be read"),
    (("--diva_features", "discriminative", "dc"), "--skip_broken_images: given on resume, but "
     "--diva_features discriminative dc keeps a cluster of each image; accepted: the same files as "
     "before"),
    (("--data_sampler", "greedy_coreset"), "--skip_broken_images: leaves 24 training images, but "
     "the sampler has embeddings of 32; accepted: the same files as before")], ids=str)
def test_what_cannot_be_left_out_on_resume_is_told(data, capsys, options, message):
    folder = runs.train(data, *options)
    classes = sorted((data / "data" / "tiny" / "images").glob("[0-9]*"))
    for i in range(8):
        (classes[i % 4 if options else 0] / f"image_{i:02d}.jpg").write_bytes(b"")
    error = refuse(capsys, "--resume", folder, "--n_epochs", 2, "--skip_broken_images")
    assert error == message
    assert runs.last(folder)["epoch"] == 1


def test_images_may_move_before_a_run_goes_on(data):
    whole = runs.train(data, "--n_epochs", 2)
    folder = runs.train(data)
    (data / "data").rename(data / "elsewhere")
    runs.resume(folder, "--n_epochs", 2, "--source_path", data / "elsewhere")
    assert runs.differences(whole, folder) == []


def test_weights_that_the_checkpoint_replaces_need_not_be_there_any_more(data):
    """Neither for `--resume` nor for `--evaluate_only`: the file or the network may be gone."""
    argv = [word for word in runs.arguments(data, "--arch", "resnet18_normalize", "--n_epochs", 1)
            if word != "--not_pretrained"]
    weights = data / "weights.pth"
    from torchvision.models import resnet18
    torch.save(resnet18(weights=None).state_dict(), weights)
    assert main(*argv, "--weights_path", weights) == 0
    weights.unlink()
    folder, = runs.folders(data)
    runs.resume(folder, "--n_epochs", 2)
    assert main(*argv, "--weights_path", weights, "--evaluate_only", "--checkpoint",
                folder / "checkpoint_last.pth.tar") == 0
