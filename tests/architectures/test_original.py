import argparse
import os
import pickle
import struct
import sys
import types
import zipfile

import pytest
import torch
from torch import nn
from torch.serialization import MAGIC_NUMBER

import architectures
from architectures import original, weights
from architectures.network import Network
from utilities.errors import UserError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)


class OriginalNetwork(nn.Module):
    """How the original names its parts: the blocks of `model` again under `layer_blocks`."""

    def __init__(self, network: Network):
        super().__init__()
        self.model = network.model
        self.layer_blocks = nn.ModuleList(
            [self.model.layer1, self.model.layer2, self.model.layer3, self.model.layer4])


@pytest.fixture
def of_the_original(monkeypatch):
    """Makes an object of a class that only the original has; the class is gone when it is read."""
    def make(**attributes):
        module = types.ModuleType("utilities_of_the_original.logger")
        module.Progress_Saver = type("Progress_Saver", (), {"__module__": module.__name__})
        monkeypatch.setitem(sys.modules, "utilities_of_the_original",
                            types.ModuleType("utilities_of_the_original"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        progress = module.Progress_Saver()
        progress.__dict__.update(attributes)
        return progress

    return make


@pytest.mark.parametrize("older", [False, True])
def test_checkpoints_of_the_original_load(make_opt, tmp_path, monkeypatch, of_the_original, older):
    opt = make_opt("--not_pretrained", "--crop_size", 32, "--diva_features", "discriminative",
                   "selfsimilarity", "shared", "intra", "--embed_dim", 6)
    trained, fresh = (architectures.select("resnet18_frozen_normalize", opt) for _ in range(2))
    path = tmp_path / "checkpoint.pth.tar"
    with monkeypatch.context() as patched:
        torch.save({"state_dict": OriginalNetwork(trained).state_dict(),
                    "opt": argparse.Namespace(lr=1e-5, tau=[3], device=torch.device("cpu")),
                    "progress": of_the_original(groups={"Test": {"e_recall@1": [0.5]}}),
                    "aux": [os.getcwd, torch.float32]},
                   path, _use_new_zipfile_serialization=not older)
        patched.undo()
    tensors = weights.read_checkpoint(path)[0]
    assert not any(name.startswith("layer_blocks") for name in tensors)
    fresh.load_state_dict(tensors)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_a_variable_that_forbids_such_files_is_named(tmp_path, monkeypatch):
    torch.save({"state_dict": {"weight": torch.ones(3)}, "opt": argparse.Namespace()},
               tmp_path / "file")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError, match=r"^TORCH_FORCE_WEIGHTS_ONLY_LOAD: '1' in the environment, "
                                        r"but '.*file' holds more than weights; accepted: no"):
        weights.read_checkpoint(tmp_path / "file")


def test_our_checkpoints_load_strictly(tmp_path):
    module = nn.Linear(3, 2)
    torch.save({"state_dict": module.state_dict(), "epoch": 4, "options": {"lr": 0.1}},
               tmp_path / "ours")
    torch.save(module.state_dict(), tmp_path / "bare")
    for name in ("ours", "bare"):
        nn.Linear(3, 2).load_state_dict(weights.read_checkpoint(tmp_path / name)[0])


def test_dtypes_views_and_shared_storages_survive(tmp_path):
    shared = torch.arange(12.)
    tensors = {"whole": shared, "view": shared.view(3, 4).t()[1:], "empty": torch.zeros(0, 3),
               "scalar": torch.tensor(7), "parameter": nn.Parameter(torch.ones(2)),
               **{str(d): torch.tensor([0, 1, 2]).to(d) for d in DTYPES}}
    for older in (False, True):
        torch.save({"state_dict": tensors, "opt": argparse.Namespace()}, tmp_path / "file",
                   _use_new_zipfile_serialization=not older)
        read = weights.read_checkpoint(tmp_path / "file").tensors
        assert list(read) == list(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


class Calls:
    """Pickles as a call: what a malicious file is made of."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


MALICIOUS = {
    "system": lambda: Calls(os.system, "touch executed"),
    "eval": lambda: Calls(eval, "open('executed', 'w')"),
    "exec": lambda: Calls(exec, "open('executed', 'w')"),
    "open": lambda: Calls(open, "executed", "w"),
    "popen": lambda: Calls(__import__("subprocess").Popen, ["touch", "executed"]),
    "nested": lambda: Calls(getattr, Calls(__import__, "os"), "system"),
    "pickle in pickle": lambda: Calls(pickle.loads, pickle.dumps(
        Calls(os.system, "touch executed"))),
    "torch.load": lambda: Calls(torch.load, "elsewhere"),
    "state": lambda: Calls(argparse.Namespace, state=Calls(os.system, "touch executed")),
    "hook": lambda: Calls(torch._utils._rebuild_parameter, torch.ones(2), True,
                          Calls(os.system, "touch executed")),
}


@pytest.mark.parametrize("kind", MALICIOUS)
@pytest.mark.parametrize("older", [False, True])
def test_a_malicious_pickle_does_nothing(tmp_path, monkeypatch, kind, older):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"weight": torch.ones(3)}, "opt": argparse.Namespace(),
               "payload": MALICIOUS[kind]()}
    torch.save(content, "file", _use_new_zipfile_serialization=not older)
    assert torch.equal(weights.read_checkpoint("file")[0]["weight"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    # The same file does harm where it is trusted (else this would test nothing).
    if kind in ("system", "eval", "open"):
        torch.load("file", weights_only=False)
        assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["os system", "torch._utils _rebuild_tensor_v2",
                                  "torch FloatStorage", "collections OrderedDict"])
def test_a_pickle_cannot_change_a_class_or_function(tmp_path, monkeypatch, name):
    """GLOBAL, then BUILD with a slot state: setattr on the class or function itself."""
    stream = (b"\x80\x02c" + name.replace(" ", "\n").encode()
              + b"\nN}X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xs\x86b.")
    function = torch._utils._rebuild_tensor_v2
    monkeypatch.setattr(function, "__name__", function.__name__)    # undone after the test
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file", weights_only=True)
    with pytest.raises(UserError):
        weights.read_checkpoint(tmp_path / "file")
    assert original._Inert.__name__ == "_Inert" and os.system.__name__ == "system"
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_view_beyond_its_storage_is_refused(tmp_path):
    class Beyond:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                torch.ones(2).storage(), 0, (1000,), (1,), False, {})

    for older in (False, True):
        torch.save({"state_dict": {"weight": Beyond()}, "opt": argparse.Namespace()},
                   tmp_path / "file", _use_new_zipfile_serialization=not older)
        with pytest.raises(UserError):
            weights.read_checkpoint(tmp_path / "file")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [
    b"", b"text", b"PK\x03\x04", pickle.dumps({"state_dict": {}}), pickle.dumps(os.system),
    pickle.dumps(MAGIC_NUMBER, 2) * 3, struct.pack("<q", 1)], ids=repr)
def test_damaged_files_end_in_one_clear_line(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=r"^--checkpoint: cannot read tensors from '.*file'; "
                                        r"accepted: a checkpoint with a network's state dict$"):
        weights.read_checkpoint(tmp_path / "file")
    with pytest.raises(UserError, match=r"^--resume: '.*gone' does not exist"):
        weights.read_checkpoint(tmp_path / "gone", "--resume")


@pytest.mark.parametrize("flag", ["--checkpoint", "--weights_path"])
def test_a_file_that_cannot_be_read_is_told_with_the_reason(flag):
    with pytest.raises(UserError, match=rf"^{flag}: '/proc/self/mem' cannot be read "
                                        r"\(Input/output error\); accepted: "):
        weights.read_checkpoint("/proc/self/mem", flag)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    for older in (False, True):
        torch.save({"state_dict": {"weight": torch.ones(999)}, "opt": argparse.Namespace()},
                   tmp_path / "file", _use_new_zipfile_serialization=not older)
        content = (tmp_path / "file").read_bytes()
        for share in (0.2, 0.5, 0.9):
            (tmp_path / "file").write_bytes(content[:int(share * len(content))])
            with pytest.raises(UserError):
                weights.read_checkpoint(tmp_path / "file")
