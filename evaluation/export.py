"""`python -m evaluation.export`: a run's network as a file for other programs.

    images (B, 3, H, W) float32, normalised -> an embedding (B, D) float32 for each feature and each
    of the run's evaltypes, for any B

onnx: by torch's exporter, checked with onnxruntime. torch: an archive of torch.export, checked by
reading it back. What makes such images of files stands beside it as JSON.
"""

from pathlib import Path

from evaluation import tools
from utilities import terminal, tool
from utilities.options import Flag

PROGRAM = "evaluation.export"
DESCRIPTION = "Write the network of a run as a file for other programs."
FORMATS = ("onnx", "torch")
FLAGS = (
    tools.CHECKPOINT,
    Flag("--format", str, None, "onnx, or torch for an archive of torch.export", FORMATS,
         required=True),
    Flag("--out", Path, None, "file to write; the preprocessing goes into a file of the same name "
         "that ends in .json", required=True),
)

if __name__ == "__main__":      # before torch is imported
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import contextlib
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
from argparse import Namespace

import torch
from torch import Tensor, nn

import architectures
from evaluation.embedding import derive
from utilities.errors import RunError, refuse

EXTRAS = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4        # of the largest entry, at least of 1
TRACED, CHECKED = 2, (1, 2, 5)      # images in a batch when the network is traced and checked


class Embeddings(nn.Module):
    """images (B, 3, H, W) -> the embeddings `names`, features or evaltypes, (B, D) each."""

    def __init__(self, network: nn.Module, names: list[str], normalize: bool):
        super().__init__()
        self.network, self.names, self.normalize = network, names, normalize

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heads, _ = self.network(images)
        joined = torch.cat(list(heads.values()), dim=1)
        return tuple(derive(joined, name, list(heads), normalize=self.normalize)
                     for name in self.names)


def main(arguments: Namespace) -> None:
    if arguments.format == "onnx":
        check_extras()
    tool.check_new(arguments.out, "--out")
    described = arguments.out.with_suffix(".json")
    if arguments.format == "torch" and arguments.out.suffix != ".pt2":
        refuse("--out", f"{str(arguments.out)!r} given", "with --format torch a name that ends in "
               ".pt2, as torch.export.load wants it")
    if described == arguments.out:
        refuse("--out", f"{str(arguments.out)!r} given, where the preprocessing goes",
               "a name that does not end in .json")
    tool.check_new(described, "--out")
    network, options = architectures.load(arguments.checkpoint)
    network.chunk = 0
    names = list(dict.fromkeys([*network.heads, *options.evaltypes]))
    model = Embeddings(network, names, network.normalize).eval().requires_grad_(False)
    side = options.crop_size
    batches = [torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(n))
               for n in CHECKED]
    export, load = {"onnx": (to_onnx, from_onnx), "torch": (to_torch, from_torch)}[arguments.format]
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        file = Path(folder) / ("model.onnx" if arguments.format == "onnx" else "model.pt2")
        try:
            export(model, batches[CHECKED.index(TRACED)], file)
            worst = largest_error(model, load(file), batches)
        except Exception as error:      # of the exporter, for a network that it does not know
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"--format {arguments.format}: torch cannot export {options.arch}: "
                           f"{type(error).__name__}: {reason}") from error
        if not worst <= TOLERANCE:
            raise RunError(f"--format {arguments.format}: the exported network departs from the "
                           f"original by {worst:.1e}, more than {TOLERANCE:.0e}; nothing was "
                           "written")
        content = file.read_bytes()
    tool.write(arguments.out, lambda out: out.write(content))
    sizes = {name: rows.shape[1] for name, rows in zip(names, model(batches[0]), strict=True)}
    text = json.dumps(preprocessing(options, sizes), indent=1) + "\n"
    tool.write_text(described, text)
    print(f"{arguments.out}: {len(content) / 2**20:.1f} MB, at most {worst:.1e} from the original, "
          f"in batches of {', '.join(map(str, CHECKED))}\n{described}: preprocessing and outputs")


def check_extras() -> None:
    """UserError, naming what to install, where the packages for ONNX are not there."""
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        refuse("--format", f"'onnx' needs {', '.join(missing)}, which is not installed",
               f"pip install {' '.join(EXTRAS)}, or --format torch")


def to_onnx(model: Embeddings, images: Tensor, file: Path) -> None:
    torch.onnx.export(model, (images,), str(file), dynamo=True, external_data=False, verbose=False,
                      input_names=["images"], output_names=model.names,
                      dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})


def from_onnx(file: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(rows) for rows in
                           session.run(None, {"images": images.numpy()})]


def to_torch(model: Embeddings, images: Tensor, file: Path) -> None:
    program = torch.export.export(model, (images,),
                                  dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})
    torch.export.save(program, file)


def from_torch(file: Path):
    return torch.export.load(file).module()


def largest_error(model: Embeddings, exported, batches: list[Tensor]) -> float:
    """The largest difference between what both give, as a share of the largest entry, at least
    of 1."""
    worst = 0.0
    for images in batches:
        for wanted, got in zip(model(images), exported(images), strict=True):
            if wanted.shape != got.shape:
                return float("inf")
            scale = max(1.0, float(wanted.abs().max()))
            worst = max(worst, float((wanted - got).abs().max()) / scale)
    return worst


def preprocessing(options: Namespace, sizes: dict[str, int]) -> dict:
    """What turns a file into the network's input, and what its outputs are."""
    inputs = architectures.inputs(options.arch)
    order = slice(None, None, -1 if inputs.bgr else 1)
    return {
        "arch": options.arch,
        "steps": ["turn upright by the EXIF orientation", "lay transparent pixels on white",
                  "convert to 8-bit RGB", "resize the short side to `resize` and the long side in "
                  "proportion, rounded down, antialiased", "crop the centre: half of what is left "
                  "over, rounded to the nearest, a half to even, lies left and above",
                  "divide by 255, subtract mean, divide by std, channel by channel in the order "
                  "of `channels`"],
        "resize": options.resize, "interpolation": inputs.interpolation, "crop": options.crop_size,
        "channels": "BGR" if inputs.bgr else "RGB",
        "mean": list(inputs.mean[order]), "std": list(inputs.std[order]),
        "input": {"name": "images", "dtype": "float32",
                  "shape": ["batch", 3, options.crop_size, options.crop_size]},
        "outputs": [{"name": name, "dtype": "float32", "shape": ["batch", size]}
                    for name, size in sizes.items()],
        "distance": "Euclidean",
    }


@contextlib.contextmanager
def quiet():
    """Without the notes of torch's exporters on how they work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
