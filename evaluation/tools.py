"""What the tools that use a network share: their flags, and the network on its device."""

from argparse import Namespace
from pathlib import Path

from utilities.options import FROM_0, FROM_1, Flag

CHECKPOINT = Flag("--checkpoint", Path, None, "checkpoint of a run", required=True)
MACHINE = (
    Flag("--device", str, "auto", "where the network computes; auto: a GPU if there is one, else "
         "the CPU", ("auto", "cuda", "cpu")),
    Flag("--gpu", int, 0, "index of the GPU to use", FROM_0),
    Flag("--bs", int, 64, "images that the network embeds at once", FROM_1),
    Flag("--kernels", int, 8, "worker processes that load images, at most one for each core; 0: "
         "load in the main process", FROM_0),
)
SOURCE_PATH = Flag("--source_path", Path, None, "folder that holds the datasets; when not given: "
                   "as in training")
SKIP = Flag("--skip_broken_images", bool, False, "leave out and print images that cannot be read; "
            "otherwise they end the tool")


def on_this_machine(options: Namespace, arguments: Namespace) -> Namespace:
    """The `options` of a run, with those that concern the machine taken from `arguments` or set to
    their defaults."""
    return Namespace(**{**vars(options), "device": arguments.device, "gpu": [arguments.gpu],
                        "bs": arguments.bs, "kernels": arguments.kernels, "cache": "none",
                        "precision": "fp32", "compile": False, "evaluate_on_gpu": False,
                        "evaluate_on_cpu": False})


def opened(checkpoint: Path, arguments: Namespace):
    """The network in `checkpoint`, on its device, and its run's options on this machine. arguments:
    the values of MACHINE."""
    import architectures
    from utilities import setup

    network, options = architectures.load(checkpoint)
    options = on_this_machine(options, arguments)
    return network.to(setup.device(options)), options
