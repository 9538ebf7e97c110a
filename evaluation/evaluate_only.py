"""`--evaluate_only`: the metrics of a trained network, printed."""

import architectures
import datasets
from evaluation.evaluator import Evaluator
from utilities import setup
from utilities.terminal import check_output


def evaluate_only(opt) -> int:
    """Prints the metrics of the network in `--checkpoint` and writes nothing; returns 0."""
    device = setup.device(opt)
    network, _ = architectures.load(opt.checkpoint, opt)
    splits = datasets.select(opt.dataset, opt)
    datasets.check_unseen(splits, network.trained_on)
    evaluator = Evaluator.from_opt(opt, splits, device)
    evaluator.evaluate(network.to(device), 0)
    evaluator.close()
    print(evaluator.report())
    check_output()
    return 0
