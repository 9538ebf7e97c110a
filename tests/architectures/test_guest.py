"""timm's models as backbones, with random weights; what is published comes from a server here."""

import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import architectures
import diva_main
import parameters
from architectures import guest, weights
from datasets import transforms
from datasets.pictures import Picture, Pictures
from evaluation import export
from tests import runs, trees
from tests.tools import call
from utilities import distributed
from utilities.errors import UserError

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
needs_safetensors = pytest.mark.skipif(importlib.util.find_spec("safetensors") is None,
                                       reason="an extra")

ROOT = Path(__file__).parent.parent.parent
CNN, VIT = "timm:test_efficientnet", "timm:test_vit"    # 0.1 and 0.4 million weights
SMALL = ("--embed_dim", 8, "--crop_size", 32, "--resize", 36)


@pytest.fixture
def select(make_opt):
    def build(arch, *argv):
        opt = make_opt("--arch", arch, *SMALL, *argv)
        return architectures.select(opt.arch, opt)

    return build


def file_of(folder, backbone, *, kind="pth", size=160, half=False, change=None):
    """A file of weights of timm's whole model, classifier included, and its state dict."""
    torch.manual_seed(3)
    fixed = {"img_size": size} if backbone == VIT else {}
    model = timm.create_model(backbone.removeprefix("timm:"), **fixed)
    for module in model.modules():      # statistics that are not those of a new network
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
    tensors = dict(model.state_dict())
    if change:
        change(tensors)
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value
                   for key, value in tensors.items()}
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        import safetensors.torch

        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path, tensors


@pytest.mark.parametrize("name", [
    "tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", "resnet18.tv_in1k", "resnet50",
    "vit_small_patch16_224.dino", "mobilevit_xxs.cvnets_in1k", "vit_base_patch16_clip_224.openai"])
def test_images_are_prepared_as_timm_says(name):
    wanted = timm.data.resolve_data_config(
        pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    inputs = architectures.inputs(f"timm:{name}_frozen_normalize")
    assert (inputs.mean, inputs.std, inputs.interpolation) == (
        wanted["mean"], wanted["std"], wanted["interpolation"])
    assert (inputs.crop, inputs.bgr) == (224, False)


def test_every_interpolation_of_timm_is_known():
    assert {timm.models.get_pretrained_cfg(name).interpolation
            for name in timm.models.list_pretrained()} <= transforms.FILTERS.keys()


@pytest.mark.parametrize("backbone", [CNN, VIT, "timm:test_byobnet", "timm:test_nfnet"])
def test_the_trunk_is_what_timm_gives(select, tmp_path, backbone):
    """Folding changes nothing, and neither does what other models of timm keep in evaluation."""
    network = select(backbone, "--not_pretrained").eval()
    fixed = {"img_size": 32} if backbone == VIT else {}
    model = timm.create_model(backbone.removeprefix("timm:"), num_classes=0, **fixed).eval()
    model.load_state_dict(network.model.timm.state_dict())
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        embeddings, trunk = network(images)
        torch.testing.assert_close(trunk, model(images), rtol=1e-4, atol=1e-5)
    assert trunk.shape == (3, network.feature_dim)
    assert embeddings["discriminative"].shape == (3, 8)


@pytest.mark.parametrize("kind", ["pth", pytest.param("safetensors", marks=needs_safetensors)])
@pytest.mark.parametrize("half", [False, True])
def test_weights_path_takes_timm_s_files(select, tmp_path, kind, half):
    path, tensors = file_of(tmp_path, CNN, kind=kind, half=half)
    loaded = select(CNN, "--weights_path", path).model.timm.state_dict()
    left = tensors.keys() - loaded.keys()
    assert left == {"classifier.weight", "classifier.bias"} and loaded.keys() < tensors.keys()
    for key, value in loaded.items():
        assert torch.equal(value, tensors[key].to(value.dtype)), key
        assert value.dtype in (torch.float32, torch.int64)


def test_what_is_drawn_beside_the_trunk_does_not_depend_on_its_weights(select, tmp_path):
    path, _ = file_of(tmp_path, VIT)
    states = []
    for argv in (("--weights_path", path), ("--not_pretrained",)):
        torch.manual_seed(5)
        heads = select(VIT, *argv).heads.state_dict()
        states.append([*heads.values(), torch.rand(3)])
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


def test_position_embeddings_of_another_image_size_are_resampled_by_timm(select, tmp_path):
    from timm.layers import resample_abs_pos_embed

    path, tensors = file_of(tmp_path, VIT)
    network = select(VIT, "--weights_path", path, "--crop_size", 64, "--resize", 64)
    loaded = network.model.timm.state_dict()
    assert loaded["pos_embed"].shape == (1, 17, 64) != tensors["pos_embed"].shape
    wanted = resample_abs_pos_embed(tensors["pos_embed"], new_size=[4, 4], num_prefix_tokens=1)
    assert torch.equal(loaded["pos_embed"], wanted)
    for key, value in loaded.items():
        assert key == "pos_embed" or torch.equal(value, tensors[key]), key


def drop(tensors):
    del tensors["blocks.2.mlp.fc1.bias"]


def add(tensors):
    tensors["blocks.99.weight"] = torch.zeros(2)


def reshape(tensors):
    tensors["norm.weight"] = torch.zeros(7)


def break_one(tensors):
    tensors["norm.weight"][3] = float("nan")


@pytest.mark.parametrize("size", [64, 160])     # with and without resampling
@pytest.mark.parametrize("change, difference", [
    (drop, r"does not fit the network: .*(pos_embed|blocks\.2\.mlp\.fc1\.bias) (is missing|is \()"),
    (add, r"does not fit the network: .*(pos_embed|blocks\.99\.weight) (is not|is \()"),
    (reshape, r"does not fit the network: .*(pos_embed|norm\.weight) is \("),
    (break_one, r"holds NaN or infinity in .*norm\.weight")])
def test_weights_that_lack_or_add_something_are_refused(select, tmp_path, size, change,
                                                        difference):
    path, _ = file_of(tmp_path, VIT, change=change)
    with pytest.raises(UserError, match=rf"^--weights_path: '.*' {difference}.*; accepted: "):
        select(VIT, "--weights_path", path, "--crop_size", size, "--resize", size)


def test_weights_of_another_model_are_refused(select, tmp_path):
    path, _ = file_of(tmp_path, CNN)
    with pytest.raises(UserError, match=r"^--weights_path: '.*' does not fit the network: "
                                        r"timm\.cls_token is missing \(and \d+ more\); accepted: "
                                        r"weights of the same network$"):
        select(VIT, "--weights_path", path)


def test_safetensors_are_read_for_every_backbone(select, tmp_path, monkeypatch):
    save = pytest.importorskip("safetensors.torch").save_file
    from torchvision import models

    tensors = models.resnet18(weights=None).state_dict()
    path = tmp_path / "resnet18.safetensors"
    save(tensors, path)
    loaded = select("resnet18", "--weights_path", path).model.state_dict()
    assert torch.equal(loaded["layer1.0.conv1.weight"], tensors["layer1.0.conv1.weight"])
    path.write_bytes(b"no such file")
    with pytest.raises(UserError, match=r"^--weights_path: cannot read tensors from '"):
        select("resnet18", "--weights_path", path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"^--weights_path: '.*' needs a library that is not "
                                        r"installed .*; pip install safetensors$"):
        weights.read_checkpoint(path, "--weights_path")


@pytest.mark.parametrize("arch, argv, message", [
    ("timm:vit_tny_patch16", (), r"--arch: timm has no model 'vit_tny_patch16'; accepted: timm:"),
    ("timm:vit_tiny_patch16_224.none", (),
     r"--arch: timm has no weights 'none' of vit_tiny_patch16_224; accepted: "
     r"timm:vit_tiny_patch16_224, timm:vit_tiny_patch16_224\."),
    ("timm:resnet18.", (),
     r"--arch: timm has no weights '' of resnet18; accepted: timm:resnet18, timm:resnet18\."),
    ("timm:vit_small_patch16_224_in21k", (), r"--arch: .* is a former name; accepted: "
                                             r"timm:vit_small_patch16_224\.augreg_in21k$"),
    ("timm:vit_tiny_patch16_224", ("--crop_size", 100),
     r"--crop_size: --arch timm:vit_tiny_patch16_224 cuts images into patches of 16 x 16 pixels, "
     r"which 100 is no multiple of; accepted: e\.g\. 96$"),
    ("timm:levit_128s", ("--crop_size", 8),
     r"--crop_size: --arch timm:levit_128s cannot take images of 8 x 8 pixels \(.*\); "
     r"accepted: e\.g\. 224$"),
    (CNN, ("--grad_cache_chunk", 4), r"--grad_cache_chunk: 4 given, but timm:test_efficientnet "
                                     r"trains BatchNorm, .*; accepted: --arch timm:test_e")])
def test_what_does_not_exist_or_fit_is_refused_in_one_line(tmp_path, capsys, arch, argv, message):
    words = runs.arguments(tmp_path, "--arch", f"{arch}_normalize", "--resize", 256, *argv)
    assert diva_main.main(parameters.read_arguments(words)) == 2
    line, = capsys.readouterr().err.splitlines()
    assert re.match(f"diva_main.py: error: {message}", line), line
    assert not runs.folders(tmp_path)


def test_without_timm_a_line_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    words = runs.arguments(tmp_path, "--arch", f"{VIT}_normalize")
    assert diva_main.main(parameters.read_arguments(words)) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("diva_main.py: error: --arch: 'timm:' needs a library that is not "
                           "installed (")
    assert line.endswith('); pip install "timm>=1.0"')


def test_an_older_timm_is_refused(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "0.9.16")
    with pytest.raises(UserError, match=r"^--arch: 'timm:' given, but timm 0\.9\.16 is installed; "
                                        r'accepted: .*"timm>=1\.0"'):
        guest.check(VIT)


def test_frozen_fixes_the_statistics_of_timm_s_batchnorms(select):
    images = torch.randn(4, 3, 32, 32)
    for arch, moves in ((f"{CNN}_frozen", False), (CNN, True)):
        network = select(arch, "--not_pretrained").train()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        network(images)
        moved = [key for key, value in network.state_dict().items()
                 if not torch.equal(value, before[key])]
        assert bool(moved) == moves and all("bn" in key for key in moved)


def test_what_timm_keeps_in_evaluation_follows_the_weights(select):
    """A key network stays in evaluation mode while its weights move."""
    network = select("timm:levit_128s", "--not_pretrained", "--crop_size", 64,
                     "--resize", 64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        _, before = network(images)
        for name, parameter in network.named_parameters():
            if "attention_biases" in name:
                parameter.normal_()
        _, after = network(images)
        _, again = network.train().eval()(images)
    assert not torch.allclose(before, after) and torch.equal(after, again)


def test_dropout_that_drops_nothing_is_not_reported(select):
    assert not distributed.dropping(select(VIT, "--not_pretrained"))
    assert distributed.dropping(select("timm:swin_tiny_patch4_window7_224", "--not_pretrained",
                                       "--crop_size", 64, "--resize", 64)) == {"DropPath"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a ViT at 32 px."""
    return runs.train(tmp_path_factory.mktemp("run"), "--arch", f"{VIT}.r160_in1k_normalize",
                      "--n_epochs", 2, "--diva_features", *runs.FOUR)


def test_a_run_goes_on_bit_for_bit(run, tmp_path):
    half = runs.train(tmp_path, "--arch", f"{VIT}.r160_in1k_normalize",
                      "--diva_features", *runs.FOUR)
    runs.resume(half, "--n_epochs", 2)
    assert runs.differences(half, run) == []


def test_a_checkpoint_opens_with_its_model_s_inputs(run):
    network, options = architectures.load(run / "checkpoint_last.pth.tar")
    wanted = architectures.inputs(f"{VIT}.r160_in1k")
    picture = trees.picture(1, (64, 50))
    pictures = Pictures([Picture("one", picture)], options, "images")
    assert pictures.inputs == wanted and wanted.interpolation == "bicubic"
    assert torch.equal(pictures[0, 0].images, transforms.evaluation_transform(
        32, 36, wanted.interpolation)(picture))
    assert network(torch.rand(1, 3, 32, 32))[1].shape == (1, network.feature_dim)


def test_a_run_can_be_evaluated_and_continued_at_another_image_size(run, make_opt, capsys):
    last = run / "checkpoint_last.pth.tar"
    at_64 = ("--crop_size", 64, "--resize", 64)
    words = ["--evaluate_only", "--checkpoint", str(last), *map(str, at_64)]
    assert diva_main.main(parameters.read_arguments(words)) == 0
    opt = make_opt("--arch", f"{VIT}.r160_in1k_normalize", "--embed_dim", 16, *at_64,
                   "--weights_path", last)
    network = architectures.select(opt.arch, opt)
    assert "taken from" in capsys.readouterr().out
    assert network.model.timm.pos_embed.shape == (1, 17, 64)
    stored = runs.last(run)["state_dict"]
    assert torch.equal(network.model.timm.norm.weight, stored["model.timm.norm.weight"])


@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_run_is_exported_with_what_its_images_need(run, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / "network.pt2"
    assert call(export, "--checkpoint", run / "checkpoint_last.pth.tar", "--format", form, "--out",
                out) == 0       # which compares it with the network
    described = json.loads(out.with_suffix(".json").read_text())
    assert (described["interpolation"], described["mean"], described["crop"]) == (
        "bicubic", [0.5, 0.5, 0.5], 32)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_trains_as_it_does_without(tmp_path):
    losses = []
    for argv in ((), ("--compile",)):
        folder = runs.train(tmp_path, "--arch", f"{VIT}_normalize", *argv)
        losses.append(runs.rows(folder, "Train_loss")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def keep(folder, name, tensors):
    """Puts a file of weights where the hub's client keeps it."""
    hub_id = timm.models.get_pretrained_cfg(name).hf_hub_id
    models = folder / f"models--{hub_id.replace('/', '--')}"
    path = models / "snapshots" / (40 * "a") / "pytorch_model.bin"
    path.parent.mkdir(parents=True)
    torch.save(tensors, path)
    (models / "refs").mkdir()
    (models / "refs" / "main").write_text(40 * "a")
    return path


def test_auxiliary_classifiers_in_published_weights_are_left_out(select, tmp_path, monkeypatch):
    """timm's own download leaves them out, so both a kept file and a copy must fit."""
    name = "inception_v3.tv_in1k"
    tensors = timm.create_model("inception_v3", aux_logits=True).state_dict()
    path = keep(tmp_path, name, tensors)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    copy = tmp_path / "copy.pth"
    torch.save(tensors, copy)
    size = ("--crop_size", 96, "--resize", 96)
    for argv in ((), ("--weights_path", copy)):
        loaded = select(f"timm:{name}", *size, *argv).model.timm.state_dict()
        assert all(torch.equal(value, tensors[key]) for key, value in loaded.items())
    path.write_bytes(b"no such file")
    with pytest.raises(UserError, match=r"^--arch: cannot read the weights of timm:inception_v3\."
                                        r"tv_in1k from '.*' \(.*\); accepted: that file, deleted"):
        select(f"timm:{name}", *size)


def test_weights_that_are_not_on_the_hub_are_fetched_once(select, tmp_path, monkeypatch):
    published = timm.models.get_pretrained_cfg("legacy_seresnet18")
    assert published.url and not published.hf_hub_id
    tensors = timm.create_model("legacy_seresnet18").state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / published.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(tensors, path)
    loaded = select("timm:legacy_seresnet18").model.timm.state_dict()
    assert all(torch.equal(value, tensors[key]) for key, value in loaded.items())


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for one file of weights."""

    content, name = b"", ""

    def do_GET(self, body=True):
        if not self.path.endswith(f"/{self.name}/resolve/main/model.safetensors"):
            return self.send_error(404)
        self.send_response(200)
        for key, value in {"ETag": '"1234"', "X-Repo-Commit": 40 * "a",
                           "Content-Length": str(len(self.content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(self.content)

    def do_HEAD(self):
        self.do_GET(body=False)

    def log_message(self, *args):
        pass


ASKING = """
    import json, sys, time, warnings
    warnings.simplefilter("ignore")
    import architectures, parameters
    opt = parameters.read_arguments(sys.argv[1:])

    def sum_of_weights():
        state = architectures.select(opt.arch, opt).model.timm.state_dict()
        return float(sum(value.double().sum() for value in state.values()))

    first = sum_of_weights()
    print("fetched", flush=True)
    input()             # the hub is away now
    again, begin, message = sum_of_weights(), time.monotonic(), ""
    try:
        architectures.select("timm:test_resnet.r160_in1k", opt)
    except ValueError as error:
        message = str(error)
    print(json.dumps([first, again, message, time.monotonic() - begin]))
"""


@needs_safetensors
def test_published_weights_are_fetched_once_and_a_hub_that_is_away_is_named(tmp_path):
    path, tensors = file_of(tmp_path, CNN, kind="safetensors")
    Hub.content, Hub.name = path.read_bytes(), "test_efficientnet.r160_in1k"
    words = ["--arch", f"{CNN}.r160_in1k", "--embed_dim", "8", "--crop_size", "32"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "*",
                       "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        asking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ASKING), *words], cwd=ROOT,
                                  text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  env=os.environ | environment)
        assert asking.stdout.readline() == "fetched\n"
        server.shutdown()
    out, _ = asking.communicate("\n")
    first, again, message, seconds = json.loads(out)
    wanted = sum(float(value.double().sum()) for key, value in tensors.items()
                 if not key.startswith("classifier."))
    assert first == again == pytest.approx(wanted)
    assert message.startswith("--arch: the weights of timm:test_resnet.r160_in1k could not be "
                              f"downloaded from {address}/timm/test_resnet.r160_in1k (")
    assert message.endswith("; accepted: --weights_path with a copy of them (.safetensors, .pth), "
                            "or --not_pretrained")
    assert seconds < 20         # the hub's own client tries for 48
