"""Losses and gradients of the original's formulas on class labels (tests/golden/README.md)."""

import json
from pathlib import Path

import pytest
import torch

import criteria
from batchminer import Pairs, Sets, Triplets

FACTS = json.loads((Path(__file__).parent.parent / "golden" / "criteria.json").read_text())
CASES = sorted(name for name, case in FACTS["cases"].items() if case["loss"] in criteria.LOSSES)


def tuples(kind, arrays):
    """The golden case's tuples in the form of `kind`."""
    labels, (anchors, positives, negatives) = arrays["labels"], arrays["triplets"].T
    valid = torch.ones(len(anchors), dtype=torch.bool)
    if kind == "triplets":
        return Triplets(anchors, positives, negatives, valid)
    if kind == "npairs":
        others = torch.ones(len(anchors), len(labels), dtype=torch.bool)
        others.scatter_(1, torch.stack([anchors, positives], 1), False)
        return Pairs(anchors, positives, others, valid)
    same = labels[:, None] == labels
    return Sets(same & ~torch.eye(len(labels), dtype=torch.bool), ~same,
                torch.ones(len(labels), dtype=torch.bool))


def flags(options):
    """The options of a case as arguments on the command line."""
    for name, value in options.items():
        if value is not False:
            yield from [f"--{name}"] if value is True else [f"--{name}", value]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case, golden, make_opt, fixed):
    arrays, details = golden("criteria")
    loss_name, options = details["cases"][case]["loss"], details["cases"][case]["opt"]
    opt = make_opt("--loss", loss_name, "--embed_dim", details["embed_dim"], *flags(options))
    kind = criteria.TAKES.get(loss_name)
    miner = fixed(tuples(kind, arrays)) if kind else None
    criterion = criteria.select(loss_name, opt, n_classes=details["n_classes"], batchminer=miner)
    learned = list(criterion.parameters())
    assert len(learned) == details["cases"][case]["n_params"]
    with torch.no_grad():
        for i, parameter in enumerate(learned):
            parameter.copy_(arrays[f"{case}.param{i}"].reshape(parameter.shape))

    x = arrays[details["cases"][case]["input"]].clone().requires_grad_()
    loss = criterion(x, arrays["labels"])
    loss.backward()
    assert loss.item() == pytest.approx(arrays[f"{case}.loss"].item(), rel=1e-4)
    expected = [arrays[f"{case}.grad"]]
    expected += [arrays[f"{case}.param{i}.grad"] for i in range(len(learned))]
    for tensor, reference in zip((x, *learned), expected, strict=True):
        error = (tensor.grad.reshape(reference.shape) - reference).abs().max()
        assert error <= 1e-3 * reference.abs().max()
