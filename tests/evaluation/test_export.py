"""Exported networks give what the run's network gives, by the JSON beside them alone."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

import architectures
from evaluation import embed, export
from tests import trees
from tests.tools import call
from utilities.errors import UserError

needs_onnx = pytest.mark.skipif(any(importlib.util.find_spec(name) is None
                                    for name in export.EXTRAS), reason="an extra")


def by_json(path, described) -> np.ndarray:
    """An image as the JSON says, (1, 3, H, W), by Pillow and NumPy."""
    image = Image.open(path).convert("RGB")
    short, crop = min(image.size), described["crop"]
    image = image.resize([side * described["resize"] // short for side in image.size],
                         Image.Resampling[described["interpolation"].upper()])
    left, top = (round((side - crop) / 2) for side in image.size)
    pixels = np.asarray(image)[top:top + crop, left:left + crop] / 255
    if described["channels"] == "BGR":
        pixels = pixels[..., ::-1]
    rows = (pixels - described["mean"]) / described["std"]
    return rows.transpose(2, 0, 1)[None].astype(np.float32)


def onnx_rows(file, batch, names):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    return dict(zip(names, session.run(names, {"images": batch}), strict=True))


def torch_rows(file, batch, names):
    outputs = torch.export.load(file).module()(torch.from_numpy(batch))
    return dict(zip(names, (rows.numpy() for rows in outputs), strict=True))


@pytest.mark.parametrize(("form", "name", "run_file"), [
    pytest.param("onnx", "network.onnx", onnx_rows, marks=needs_onnx),
    ("torch", "network.pt2", torch_rows)], ids=export.FORMATS)
def test_a_file_embeds_as_the_run_does(checkpoint, tmp_path, form, name, run_file, capsys):
    out = tmp_path / name
    assert call(export, "--checkpoint", checkpoint, "--format", form, "--out", out) == 0
    assert "from the original" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.json", out.name]
    described = json.loads((tmp_path / "network.json").read_text())
    files = [trees.write(tmp_path / f"{i}.png", i, (60, 50 + i)) for i in range(7)]
    network, options = architectures.load(checkpoint)
    wanted = embed.embeddings(network, options, files)
    names = [output["name"] for output in described["outputs"]]
    assert names == list(wanted)
    batch = np.concatenate([by_json(file, described) for file in files])
    for part in (batch, batch[:1]):
        for name, rows in run_file(out, part, names).items():
            np.testing.assert_allclose(rows, wanted[name][:len(part)], atol=1e-4)
            assert rows.shape[1] == described["outputs"][names.index(name)]["shape"][1]


def test_bninception_is_fed_blue_first(checkpoint):
    _, options = architectures.load(checkpoint)
    options.arch = "bninception_normalize"
    described = export.preprocessing(options, {})
    assert (described["channels"], described["mean"]) == ("BGR", [0.4078, 0.4588, 0.502])


@pytest.mark.parametrize("arch", ["resnet18", "convnext_tiny_normalize", "bninception_normalize"])
@pytest.mark.slow
@needs_onnx
def test_other_backbones(make_opt, tmp_path, arch):
    opt = make_opt("--arch", arch, "--not_pretrained", "--embed_dim", 16, "--diva_features",
                   "discriminative", "shared", "--evaltypes", "all")
    network = architectures.select(opt.arch, opt)
    torch.save({"state_dict": network.state_dict(), "options": vars(opt)}, tmp_path / "file")
    for form in export.FORMATS:
        assert call(export, "--checkpoint", tmp_path / "file", "--format", form, "--out",
                    tmp_path / f"{form}.pt2") == 0


def test_without_the_extras_it_says_what_to_install(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "EXTRAS", ("torch", "no_such_package"))
    with pytest.raises(UserError, match="needs no_such_package, which is not installed"):
        export.check_extras()
    assert call(export, "--checkpoint", checkpoint, "--format", "onnx", "--out",
                tmp_path / "x.onnx") == 2
    assert capsys.readouterr().err == (
        "evaluation.export: error: --format: 'onnx' needs no_such_package, which is not installed; "
        "accepted: pip install torch no_such_package, or --format torch\n")


def test_a_network_that_departs_is_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    """One whose export is cut to a batch size, and one with other numbers."""
    assert export.largest_error(lambda images: (images, 10 * images),
                                lambda images: (images, 10 * images + 1e-3),
                                [torch.ones(2, 3)]) == pytest.approx(1e-4, rel=0.1)
    assert export.largest_error(lambda images: (images,), lambda images: (images[:1],),
                                [torch.ones(2, 3)]) == float("inf")
    monkeypatch.setattr(export, "TOLERANCE", -1)
    assert call(export, "--checkpoint", checkpoint, "--format", "torch", "--out",
                tmp_path / "x.pt2") == 1
    assert "departs from the original" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
