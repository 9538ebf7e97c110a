"""The best checkpoint of a run, and the embeddings that its network gives the run's test split."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import datasets
from datasets.workers import explain_lost_workers
from evaluation import tools
from evaluation.embedding import derive
from evaluation.evaluator import Split
from utilities import run_folder
from utilities.embedding import embed
from utilities.errors import refuse
from utilities.files import fault


def checkpoint(folder: str | Path, options: Mapping[str, Any], evaltype: str, flag: str) -> Path:
    """The best checkpoint for `evaltype` of the run in `folder`, by its first storage metric.
    options: the run's. UserError, naming `flag`, where there is none."""
    if evaltype not in options["evaltypes"]:
        refuse("--evaltype", f"{evaltype!r} is none of {str(folder)!r}",
               ", ".join(options["evaltypes"]))
    path = Path(folder) / run_folder.checkpoint_name(evaltype, options["storage_metrics"][0])
    if wrong := fault(path, "file"):
        refuse(flag, f"{str(path)!r} {wrong}", "runs with their best checkpoints")
    return path


def opened(path: Path, arguments: Namespace) -> tuple[nn.Module, Split]:
    """The network in the checkpoint `path`, on its device, and the test split of its run.

    arguments: the values of `tools.MACHINE`, `--source_path` and `--skip_broken_images`, which
    replace the run's. UserError where a test class was trained on, and where images are missing.
    """
    network, options = tools.opened(path, arguments)
    options.evaluate_only, options.train_metrics = True, False
    options.skip_broken_images |= arguments.skip_broken_images
    if arguments.source_path:
        options.source_path = str(arguments.source_path.absolute())
    data = datasets.select(options.dataset, options)
    datasets.check_unseen(data, network.trained_on)
    device = next(network.parameters()).device
    return network, Split.of(data, "Test", "testing", options, device)


def embedded(network: nn.Module, split: Split, evaltype: str) -> list[Tensor]:
    """The embeddings (N, D) float32 of each of the split's loaders, on the network's device.
    UserError where an image cannot be read."""
    features, points = list(network.heads), []
    for loader in split.loaders:
        with explain_lost_workers():
            rows = embed(network, loader, features)
        loader.close()
        points.append(derive(rows, evaltype, features, normalize=network.normalize))
    return points
