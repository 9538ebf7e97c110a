"""`python -m evaluation.embed`: the embeddings of any images, as arrays.

In Python:

    network, options = architectures.load(checkpoint)
    rows = embeddings(network, options, [path, ...])["discriminative"]
"""

from pathlib import Path

from evaluation import tools
from utilities import terminal, tool
from utilities.options import Flag

PROGRAM = "evaluation.embed"
DESCRIPTION = "Embed images with the network of a run."
FLAGS = (
    tools.CHECKPOINT,
    Flag("--images", Path, None, "folder of images, searched at any depth, or a table .csv with a "
         "column path and, where wanted, the box x_1, x_2, y_1, y_2 in pixels", required=True),
    Flag("--out", Path, None, "file .npz to write: names, and an array (N, D) for each feature and "
         "each of the run's evaltypes", required=True),
    tools.SKIP, *tools.MACHINE,
)

if __name__ == "__main__":      # before torch is imported
    terminal.prepare()
    ARGUMENTS = tool.read_arguments(PROGRAM, DESCRIPTION, FLAGS)

import sys
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor, nn

import architectures
from datasets import pictures
from datasets.loader import Loader
from datasets.pictures import Picture, Pictures
from datasets.workers import explain_lost_workers
from evaluation.embedding import derive
from utilities.embedding import embed
from utilities.environment import available_cores
from utilities.errors import refuse


def main(arguments: Namespace) -> None:
    tool.check_new(arguments.out, "--out")
    found = pictures.find(arguments.images, "--images")
    network, options = tools.opened(arguments.checkpoint, arguments)
    if arguments.skip_broken_images:
        found = pictures.without_broken(found, available_cores())
    rows = of_pictures(network, options, found, "--images", arguments.kernels)
    arrays = {"names": np.array([picture.name for picture in found])}
    arrays |= {name: embedding.numpy() for name, embedding in rows.items()}
    tool.check_new(arguments.out, "--out")
    tool.write(arguments.out, lambda file: np.savez(file, **arrays))
    print(f"{len(found):,} images: {arguments.out} holds names and "
          + ", ".join(f"{name} ({rows.shape[1]})" for name, rows in rows.items()))


def embeddings(network: nn.Module, options: Namespace, images: Sequence[str | Path | Image.Image],
               *, kernels: int = 0) -> dict[str, Tensor]:
    """{feature or evaltype: (N, D) float32 on the CPU} of `images`, paths or PIL's images.

    network, options: what `architectures.load` returns; it computes where the network is. kernels:
    worker processes that load images. UserError where an image cannot be read.
    """
    found = [Picture(f"image {number}", image) if isinstance(image, Image.Image) else
             Picture(str(image), str(image)) for number, image in enumerate(images)]
    return of_pictures(network, options, found, "images", kernels)


def of_pictures(network: nn.Module, options: Namespace, found: Sequence[Picture], flag: str,
                kernels: int) -> dict[str, Tensor]:
    """As `embeddings`, of `found`, which `flag` gave."""
    if not found:
        refuse(flag, "no image is left", "one or more that can be read")
    features, device = list(network.heads), next(network.parameters()).device
    loading = Namespace(**{**vars(options), "kernels": kernels})
    loader = Loader(Pictures(found, options, flag), loading, device)
    with explain_lost_workers():
        rows = embed(network, loader, features, device="cpu")
    loader.close()
    normalize = architectures.parse(options.arch).normalize
    return {name: derive(rows, name, features, normalize=normalize)
            for name in dict.fromkeys([*features, *options.evaltypes])}


if __name__ == "__main__":
    sys.exit(tool.run(PROGRAM, main, ARGUMENTS))
