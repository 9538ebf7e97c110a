"""`--weights_path <a run's checkpoint>`: a new run goes on from one's own network."""

import argparse
import shutil

import pytest
import torch

import diva_main
import parameters
from tests import runs, trees

LAST = "checkpoint_last.pth.tar"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run with two heads of 16 dimensions on the first three of six classes."""
    path = tmp_path_factory.mktemp("start")
    trees.class_folders(path / "data" / "tiny", n_classes=6, n_images=6)
    return runs.train(path, "--diva_features", "discriminative", "shared")


@pytest.fixture
def data(tmp_path, start):
    """The same images, and others beside them."""
    shutil.copytree(start.parents[2] / "data", tmp_path / "data")
    trees.class_folders(tmp_path / "data" / "others", n_classes=8, n_images=4, numbered=False)
    return tmp_path


def arguments(data, file, *argv) -> list[str]:
    words = runs.arguments(data, "--weights_path", file, *argv)
    return [word for word in words if word != "--not_pretrained"]


def main(words) -> int:
    return diva_main.main(parameters.read_arguments([str(word) for word in words]))


def assembled(data, file, *argv) -> dict[str, torch.Tensor]:
    """The network with which such a run begins."""
    opt = parameters.read_arguments(arguments(data, file, *argv))
    return diva_main.Training(opt).network.state_dict()


def taken(tensors, start) -> set[str]:
    """`trunk`, and the heads, of which every tensor is the one in the run `start`."""
    saved, equal = runs.last(start)["state_dict"], {}
    for key, tensor in tensors.items():
        part = key.split(".")[2] if ".last_linear." in key else "trunk"
        same = key in saved and runs.same(saved[key], tensor)
        equal[part] = equal.get(part, True) and same
    return {part for part, same in equal.items() if same}


@pytest.mark.parametrize("name", [LAST, "checkpoint_discriminative_e_recall@1.pth.tar"])
def test_trunk_and_heads_of_the_same_features_are_taken(data, start, capsys, name):
    tensors = assembled(data, start / name, "--diva_features", "discriminative", "intra")
    assert taken(tensors, start) == {"trunk", "discriminative"}
    assert capsys.readouterr().out.splitlines() == [
        f"--weights_path: taken from {str(start / name)!r}: trunk, head discriminative; not taken: "
        "head shared (not among --diva_features); new: head intra, criteria, optimiser"]


def test_heads_of_another_size_are_new(data, start, capsys):
    tensors = assembled(data, start / LAST, "--embed_dim", 8, "--diva_features", "shared",
                        "--arch", "shufflenet_v2_x0_5_frozen_normalize")
    assert taken(tensors, start) == {"trunk"}
    assert capsys.readouterr().out.splitlines() == [
        f"--weights_path: taken from {str(start / LAST)!r}: trunk; not taken: head discriminative "
        "(not among --diva_features), head shared (16 dimensions, not 8); new: head shared, "
        "criteria, optimiser"]


@pytest.mark.parametrize("options", [True, False])
def test_a_checkpoint_of_another_backbone_is_refused_in_one_line(data, start, capsys, options):
    file, state = data / "file", runs.last(start)
    if not options:
        del state["options"]
    torch.save(state, file)
    assert main(arguments(data, file, "--arch", "resnet18_normalize")) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"diva_main.py: error: --weights_path: {str(file)!r} ")
    assert line.endswith(
        "holds a shufflenet_v2_x0_5, but --arch asks for resnet18; accepted: weights of resnet18, "
        "or --arch shufflenet_v2_x0_5 with any suffixes" if options else
        "does not fit the network: model.last_linear.discriminative.weight is (16, 1024), not "
        "(16, 512); accepted: weights of the same network")
    assert not (data / "runs").exists()


def test_a_checkpoint_that_is_not_finite_is_refused_before_a_run_begins(data, start, capsys):
    """By --weights_path and by --evaluate_only."""
    file, state = data / "file", runs.last(start)
    state["state_dict"]["model.last_linear.discriminative.bias"][2] = float("nan")
    torch.save(state, file)
    evaluation = runs.arguments(data, "--evaluate_only", "--checkpoint", file, "--diva_features",
                                "discriminative", "shared")
    for flag, words in (("--weights_path", arguments(data, file)), ("--checkpoint", evaluation)):
        assert main(words) == 2
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith(f"diva_main.py: error: {flag}: ")
        assert "file' holds NaN or infinity in model.last_linear.discriminative.bias; acc" in line
    assert not (data / "runs").exists()


def test_a_checkpoint_of_the_original_is_continued_and_its_lack_of_names_told(data, start, capsys):
    file = data / "file"
    torch.save({"state_dict": runs.last(start)["state_dict"], "opt": argparse.Namespace()}, file)
    assert main(arguments(data, file, "--dataset", "others")) == 0
    told = capsys.readouterr().out
    assert "trunk, head discriminative; not taken: head shared" in told
    assert told.count("The checkpoint does not name the classes that it was trained on") == 1


def test_a_run_inherits_the_names_of_the_checkpoint_it_began_from(data, start, capsys):
    """Also behind a resume, when the checkpoint is gone, and in the next generation."""
    file = shutil.copy(start / LAST, data / "file")
    assert main(arguments(data, file, "--dataset", "others")) == 0
    folder, = runs.folders(data)
    (data / "file").unlink()
    runs.resume(folder, "--n_epochs", 2)
    names = {"tiny": [f"00{n}.Class_{n}" for n in (1, 2, 3)],
             "others": [f"Class {n}" for n in (1, 2, 3, 4)]}
    assert all(torch.load(file, weights_only=True)["data"]["trained_on"] == names
               for file in folder.glob("checkpoint_*"))
    assert main(arguments(data, folder / LAST)) == 0
    newest, = runs.folders(data) - {folder}
    assert runs.last(newest)["data"]["trained_on"] == names
    for number in (5, 6):
        shutil.rmtree(data / "data" / "tiny" / "images" / f"00{number}.Class_{number}")
    capsys.readouterr()
    assert main(["--evaluate_only", "--checkpoint", folder / LAST, "--kernels", 0, "--dataset",
                 "tiny"]) == 2
    assert "1 of the 2 testing classes of 'tiny': '003.Class_3'" in capsys.readouterr().err


def test_a_new_run_is_not_tested_on_classes_of_its_checkpoint(data, start, capsys):
    for number in (5, 6):
        shutil.rmtree(data / "data" / "tiny" / "images" / f"00{number}.Class_{number}")
    assert main(arguments(data, start / LAST)) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("diva_main.py: error: --dataset: the network was trained on 1 of the 2 "
                           "testing classes of 'tiny': '003.Class_3'; accepted: ")
    assert not (data / "runs").exists()
