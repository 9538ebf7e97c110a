import http.server
import re
import socket
import threading
from collections import OrderedDict
from hashlib import sha256
from typing import ClassVar

import pytest
import torch
from torchvision import models

import architectures
from architectures import backbones, weights
from utilities.errors import UserError


class Server(http.server.BaseHTTPRequestHandler):
    """/whole, /short (less than announced), /page (no weights), 404 for all else."""

    content = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        kind = self.path.split("/")[1]
        if kind not in ("whole", "short", "page"):
            return self.send_error(404)
        body = b"<html>moved</html>" if kind == "page" else self.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if kind == "short" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache folder of torch.hub, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def imagenet_file(tmp_path_factory):
    """A ResNet18 as the library publishes it, classifier included."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(1)
    torch.save(models.resnet18(weights=None).state_dict(), path)
    return path.rename(path.with_stem(f"resnet18-{sha256(path.read_bytes()).hexdigest()[:8]}"))


@pytest.fixture
def server(imagenet_file):
    """serves imagenet_file: the address of it whole, which can be changed to the other kinds."""
    Server.content, Server.asked = imagenet_file.read_bytes(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/whole/{imagenet_file.name}"
        httpd.shutdown()


def network(make_opt, *argv, arch="resnet18"):
    return architectures.select(arch, make_opt("--crop_size", 32, *argv))


def assert_holds(network, path):
    published = torch.load(path, weights_only=True)
    for name, tensor in network.model.state_dict().items():
        if not name.startswith("last_linear."):
            assert torch.equal(tensor, published[name]), name


def test_weights_are_downloaded_once_and_cached(make_opt, hub, server, imagenet_file, monkeypatch):
    monkeypatch.setattr(backbones, "weights_url", lambda name: server)
    assert_holds(network(make_opt), imagenet_file)
    assert_holds(network(make_opt), imagenet_file)
    assert Server.asked == [f"/whole/{imagenet_file.name}"]
    assert [file.name for file in hub.iterdir()] == [imagenet_file.name]


def test_a_file_url_works_too(hub, imagenet_file):
    tensors = weights.fetch(imagenet_file.as_uri(), "resnet18")
    assert "fc.weight" in tensors and (hub / imagenet_file.name).exists()


@pytest.mark.parametrize("kind, reason", [
    ("short", "invalid hash"), ("page", "invalid hash"), ("missing", "404")])
def test_a_failed_download_says_so_and_leaves_nothing(make_opt, hub, server, monkeypatch, kind,
                                                      reason):
    url = server.replace("whole", kind)
    monkeypatch.setattr(backbones, "weights_url", lambda name: url)
    with pytest.raises(UserError) as error:
        network(make_opt)
    message = str(error.value)
    assert "\n" not in message and message.startswith(
        f"--arch: the ImageNet weights of resnet18 could not be downloaded from {url} (")
    assert re.search(reason, message)
    assert "accepted: --weights_path with a copy of that file, or --not_pretrained" in message
    assert not list(hub.iterdir())
    monkeypatch.setattr(backbones, "weights_url", lambda name: server)
    network(make_opt)


def test_no_server_at_all(make_opt, hub, monkeypatch):
    monkeypatch.setattr(backbones, "weights_url", lambda name: "http://127.0.0.1:9/bninception.pth")
    with pytest.raises(UserError, match=r"could not be downloaded from http://127\.0\.0\.1:9/.*"
                                        r"refused.*--weights_path"):
        network(make_opt, arch="bninception")


def test_a_server_that_never_answers(make_opt, hub, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/resnet18-0123abcd.pth"
        monkeypatch.setattr(backbones, "weights_url", lambda name: url)
        with pytest.raises(UserError, match=r"could not be downloaded from .*timed out"):
            network(make_opt)
    assert socket.getdefaulttimeout() is None


def test_a_cache_that_cannot_be_written(make_opt, hub, server, monkeypatch):
    hub.parent.parent.mkdir()
    hub.parent.write_text("a file where the folder should be")
    monkeypatch.setattr(backbones, "weights_url", lambda name: server)
    with pytest.raises(UserError, match="could not be downloaded"):
        network(make_opt)


def test_a_damaged_file_in_the_cache_is_named(make_opt, hub, server, imagenet_file, monkeypatch):
    hub.mkdir(parents=True)
    (hub / imagenet_file.name).write_bytes(b"PK\x03\x04 nothing")
    monkeypatch.setattr(backbones, "weights_url", lambda name: server)
    with pytest.raises(UserError, match=r"^--arch: cannot read tensors from '.*resnet18-.*\.pth'; "
                                        r"accepted: .*delete the file to fetch it again"):
        network(make_opt)


@pytest.mark.parametrize("older", [False, True])
def test_weights_path_is_read_instead(make_opt, hub, tmp_path, imagenet_file, older):
    path = tmp_path / "weights.pth"
    torch.save(torch.load(imagenet_file, weights_only=True), path,
               _use_new_zipfile_serialization=not older)
    assert_holds(network(make_opt, "--weights_path", path), path)
    assert not hub.exists()


def test_weights_path_may_hold_the_state_dict_beside_plain_types(make_opt, tmp_path, imagenet_file):
    path = tmp_path / "training.pth"
    torch.save({"state_dict": torch.load(imagenet_file, weights_only=True), "epoch": 90}, path)
    assert_holds(network(make_opt, "--weights_path", path), imagenet_file)


def test_weights_of_the_first_pytorch_lack_counters(make_opt, tmp_path, imagenet_file):
    path, published = tmp_path / "old.pth", torch.load(imagenet_file, weights_only=True)
    torch.save(OrderedDict((k, v) for k, v in published.items() if "num_batches" not in k), path)
    loaded = network(make_opt, "--weights_path", path).model.state_dict()
    assert torch.equal(loaded["layer1.0.conv1.weight"], published["layer1.0.conv1.weight"])


def change(tensors, kind):
    if kind == "shape":
        tensors["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    elif kind == "missing":
        del tensors["layer4.1.bn2.running_var"]
    elif kind == "unexpected":
        tensors["layer5.weight"] = torch.zeros(1)
    return tensors


@pytest.mark.parametrize("kind, difference", [
    ("shape", r"conv1\.weight is \(64, 3, 3, 3\), not \(64, 3, 7, 7\)"),
    ("missing", r"layer4\.1\.bn2\.running_var is missing"),
    ("unexpected", r"layer5\.weight is not the network's")])
def test_weights_of_another_network_are_refused(make_opt, tmp_path, imagenet_file, kind,
                                                difference):
    path = tmp_path / "weights.pth"
    torch.save(change(torch.load(imagenet_file, weights_only=True), kind), path)
    with pytest.raises(UserError, match=rf"^--weights_path: '.*' does not fit the network: "
                                        rf"{difference}; accepted: "):
        network(make_opt, "--weights_path", path)


class Pickled:
    def __reduce__(self):
        import os
        return os.system, ("touch executed",)


@pytest.mark.parametrize("content", [
    "folder", "missing", "text", "empty", 7, [torch.zeros(2)], {}, {"state_dict": {"a": 1}},
    {3: torch.zeros(2)}, Pickled()],
    ids=lambda content: content if isinstance(content, str) else type(content).__name__)
def test_what_is_no_state_dict_is_refused(make_opt, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if content == "folder":
        path.mkdir()
    elif content in ("text", "empty"):
        path.write_text("no weights" * (content == "text"))
    elif content != "missing":
        torch.save(content, path)
    with pytest.raises(UserError, match=r"^--weights_path: (cannot read tensors from )?'.*weights"
                                        r"\.pth'( does not exist| is no file)?; accepted: a state"):
        network(make_opt, "--weights_path", path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("number", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(make_opt, tmp_path, imagenet_file, number):
    state = torch.load(imagenet_file, weights_only=True)
    state["layer1.0.bn1.running_var"][3] = state["layer4.1.conv2.weight"][0, 1, 2, 0] = number
    torch.save(state, tmp_path / "file")
    with pytest.raises(UserError, match=r"^--weights_path: '.*file' holds NaN or infinity in "
                                        r"layer1\.0\.bn1\.running_var \(and 1 more\); accepted: "
                                        r"weights that are finite$"):
        network(make_opt, "--weights_path", str(tmp_path / "file"))


def test_older_names_inside_densenet_are_understood(make_opt, tmp_path):
    published = models.densenet121(weights=None).state_dict()
    older = {name.replace("norm1", "norm.1").replace("norm2", "norm.2")
             .replace("conv1", "conv.1").replace("conv2", "conv.2"): tensor
             for name, tensor in published.items()}
    assert set(older) != set(published)
    torch.save(older, tmp_path / "densenet.pth")
    torch.save(published, tmp_path / "published.pth")
    loaded = network(make_opt, "--weights_path", tmp_path / "densenet.pth", arch="densenet121")
    assert_holds(loaded, tmp_path / "published.pth")


def test_every_backbone_has_published_weights():
    for name in backbones.TORCHVISION + backbones.PRETRAINEDMODELS:
        assert re.match(r"http.*-[a-f0-9]{8,}\.", backbones.weights_url(name)), name
    assert backbones.weights_url("resnet50").endswith("resnet50-19c8e357.pth")
    assert backbones.weights_url("bninception").endswith("bn_inception-52deb4733.pth")
