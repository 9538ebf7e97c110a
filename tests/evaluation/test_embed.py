"""Embeddings of any images, by the tool and in Python."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import architectures
import datasets
from datasets.loader import Loader
from evaluation import embed
from evaluation.embedding import derive
from evaluation.tools import on_this_machine
from tests.test_layers import ROOT
from tests.tools import call
from utilities.embedding import embed as embed_split

NAMES = {"discriminative", "shared", "Combined_discriminative_shared-1-1",
         "Combined_discriminative_shared-1-0.5", "Combined_discriminative_shared-0.5-1",
         "Sum_discriminative_shared-2-1"}


@pytest.fixture(scope="module")
def arrays(checkpoint, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "rows.npz"
    assert call(embed, "--checkpoint", checkpoint, "--images", images, "--out", out,
                "--kernels", 1, "--bs", 5) == 0
    with np.load(out, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_file_holds_names_features_and_evaltypes(arrays):
    assert arrays.keys() == NAMES | {"names"}
    assert len(arrays["names"]) == 32 and arrays["names"][0] == "001.Class_1/image_00.jpg"
    assert {name: arrays[name].shape for name in NAMES} == {
        name: (32, 32 if name.startswith("Combined") else 16) for name in NAMES}
    assert all(arrays[name].dtype == np.float32 for name in NAMES)


def test_they_are_what_the_run_evaluates(arrays, checkpoint):
    """The test split, embedded as diva_main.py does."""
    network, options = architectures.load(checkpoint)
    split = datasets.select("tiny", options)["testing"]
    heads = embed_split(network, Loader(split, options, "cpu"), list(network.heads))
    for name in NAMES:
        wanted = derive(heads, name, list(network.heads), normalize=True)
        np.testing.assert_allclose(arrays[name][16:], wanted, atol=1e-5)


def test_in_python_it_is_three_lines_of_the_readme(arrays, checkpoint, images):
    text = (ROOT / "README.md").read_text()
    lines = re.search(r"```python\nimport architectures\n(.*?)```", text, re.DOTALL)[1]
    image = images / "001.Class_1" / "image_01.jpg"
    names = {"architectures": architectures}
    exec(lines.replace("<checkpoint>", str(checkpoint)).replace("<image>", str(image)), names)
    assert names["rows"].keys() == NAMES
    for name, row in names["rows"].items():
        np.testing.assert_allclose(row[0], arrays[name][1], atol=1e-5)
    again = embed.embeddings(names["network"], names["options"], [image, Image.open(image)])
    assert torch.equal(again["shared"][0], again["shared"][1])


def test_a_box_is_embedded_as_an_image_of_its_own(checkpoint, images, tmp_path):
    source = images / "001.Class_1" / "image_00.jpg"
    with Image.open(source) as image:
        image.crop((4, 6, 30, 36)).save(tmp_path / "part.png")
    shutil.copy(source, tmp_path / "whole.jpg")
    (tmp_path / "table.csv").write_text(
        "path,x_1,x_2,y_1,y_2\nwhole.jpg,4,30,6,36\npart.png,,,,\nwhole.jpg,,,,\n")
    assert call(embed, "--checkpoint", checkpoint, "--images", tmp_path / "table.csv", "--out",
                tmp_path / "x.npz", "--kernels", 0) == 0
    with np.load(tmp_path / "x.npz") as file:
        rows = file["discriminative"]
        assert file["names"].tolist() == ["whole.jpg", "part.png", "whole.jpg"]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_a_broken_image_ends_the_tool_or_is_left_out(checkpoint, images, tmp_path, capsys):
    shutil.copytree(images / "001.Class_1", tmp_path / "folder")
    (tmp_path / "folder" / "broken.jpg").write_bytes(b"no image")
    argv = ["--checkpoint", checkpoint, "--images", tmp_path / "folder", "--out",
            tmp_path / "x.npz", "--kernels", 0]
    assert call(embed, *argv) == 2
    assert capsys.readouterr().err == (
        f"evaluation.embed: error: --images: cannot read the image "
        f"'{tmp_path}/folder/broken.jpg' (it is no image); accepted: images that Pillow reads; "
        "--skip_broken_images leaves out others\n")
    assert not (tmp_path / "x.npz").exists()
    assert call(embed, *argv, "--skip_broken_images") == 0
    with np.load(tmp_path / "x.npz") as file:
        assert len(file["names"]) == 4 and "broken.jpg" not in file["names"]
    assert call(embed, *argv) == 2      # which leaves the file as it is


def test_the_machine_is_that_of_the_tool(checkpoint):
    """Whatever the run was trained with."""
    from argparse import Namespace

    _, options = architectures.load(checkpoint)
    options.precision, options.cache, options.device = "fp16", "gpu", "cuda"
    here = on_this_machine(options, Namespace(device="cpu", gpu=0, bs=3, kernels=0))
    assert (here.precision, here.cache, here.device, here.bs) == ("fp32", "none", "cpu", 3)


def test_a_network_that_was_trained_in_half_precision_embeds_in_fp32(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    state["options"]["precision"] = "fp16"
    torch.save(state, tmp_path / "half")
    network, options = architectures.load(tmp_path / "half")
    assert network.precision is None and options.precision == "fp32"


@pytest.mark.parametrize("missing", ["crop_size", "arch", "evaltypes"])
def test_a_checkpoint_without_its_options_is_refused(checkpoint, tmp_path, missing, capsys):
    state = torch.load(checkpoint, weights_only=True)
    del state["options"][missing]
    torch.save({name: state[name] for name in ("state_dict", "options")}, tmp_path / "old")
    assert call(embed, "--checkpoint", tmp_path / "old", "--images", tmp_path, "--out",
                tmp_path / "x.npz") == 2
    assert "no image in" in capsys.readouterr().err
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert call(embed, "--checkpoint", tmp_path / "old", "--images", tmp_path, "--out",
                tmp_path / "x.npz") == 2
    assert "does not hold the options of its run" in capsys.readouterr().err
