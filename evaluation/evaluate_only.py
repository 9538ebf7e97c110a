"""`--evaluate_only`: the metrics of a trained network, printed."""

import architectures
import datasets
from evaluation.evaluator import Evaluator
from utilities import setup
from utilities.distributed import ALONE, Alone
from utilities.terminal import check_output


def evaluate_only(opt, processes: Alone = ALONE) -> int:
    """Prints the metrics of the network in `--checkpoint` and writes nothing; returns 0."""
    device = processes.connect(setup.device(opt))
    network, _ = architectures.load(opt.checkpoint, opt)
    with processes.first_of_machine():
        splits = datasets.select(opt.dataset, opt)
    datasets.check_unseen(splits, network.trained_on)
    evaluator = Evaluator.from_opt(opt, splits, device, processes)
    evaluator.evaluate(network.to(device), 0)
    evaluator.close()
    if processes.is_first:
        print(evaluator.report())
        check_output()
    return 0
