"""Losses of pytorch-metric-learning (Musgrave et al. 2020, arXiv 2008.09164): `pml:<Class>`.

    L = loss(embeddings, labels, indices_tuple)

`--pml_loss_args` holds the constructor's arguments (see `utilities.guests`), the number of classes
and the embedding's width are filled in, and "lr" is the learning rate of the guest's parameters, by
default 5e-4. `indices_tuple` holds the valid tuples of a miner. A guest may wait for the device.
"""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import criteria
import datasampler
from batchminer import FEWEST, OTHER_FEWEST
from utilities import guests
from utilities.errors import refuse
from utilities.options import FROM_0


class Criterion(nn.Module):
    def __init__(self, name: str, loss: nn.Module, batchminer, *, lr: float | None):
        super().__init__()
        self.name, self.loss, self.batchminer, self.lr = name, loss, batchminer, lr

    @classmethod
    def from_opt(cls, name, opt, *, n_classes, batchminer=None, **_):
        arguments = dict(opt.pml_loss_args)
        lr = arguments.pop("lr", None)
        loss = guests.build(name, "losses", arguments, flag="--loss",
                            arguments_flag="--pml_loss_args", num_classes=n_classes,
                            embedding_size=opt.embed_dim, descriptors_dim=opt.embed_dim,
                            l=opt.embed_dim)
        classes = arguments.get("num_classes", n_classes)
        if isinstance(classes, int) and classes < n_classes:    # the trial may be finite, by luck
            refuse("--pml_loss_args", f"num_classes {classes}, but {n_classes:,} classes train",
                   f"num_classes of at least {n_classes}, or arguments without it")
        learns = next(loss.parameters(), None) is not None
        if lr is not None and not learns:
            refuse("--pml_loss_args", f"lr {lr!r}, but {name} with {arguments} has nothing to "
                   "learn", "arguments without lr")
        if lr is not None and (type(lr) not in (int, float) or lr not in FROM_0):
            refuse("--pml_loss_args", f"lr {lr!r}", "a number of at least 0")
        if learns:
            lr = 5e-4 if lr is None else float(lr)
        criterion = cls(name, loss, batchminer, lr=lr)
        if batchminer is not None or not criterion.has_vectors(opt.embed_dim):
            miner = getattr(batchminer, "name", None)
            criteria.check_batches(opt, *OTHER_FEWEST.get(miner, FEWEST), f"--loss {name}")
        # Here it is not known whether the criterion is for such a feature or the main loss.
        on_tuples = batchminer is not None and criteria.needs(opt.diva_features, "triplets")
        criterion.check_on_batches(opt, n_classes, needs_tuples=on_tuples)
        return criterion

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        with guests.explain(self.name, flag="--loss"):
            loss = self.loss(embeddings, labels, self.mine(embeddings, labels))
        for name, value in self.memory().items():
            if isinstance(value, Tensor) and value.requires_grad:
                self.remember(name, value.detach())  # cuts the graph of this step
        return loss

    def mine(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...] | None:
        """The library's indices tuple, of its own miner or of one of ours; None without a miner."""
        if self.batchminer is None:
            return None
        if hasattr(self.batchminer, "raw"):
            return self.batchminer.raw(embeddings, labels)
        return indices_tuple(self.batchminer.tuples, self.batchminer(embeddings, labels))

    def has_vectors(self, dim: int) -> bool:
        """Whether it compares a batch with vectors of its own: proxies, or a memory."""
        return any(tensor.ndim == 2 and dim in tensor.shape
                   for tensor in itertools.chain(self.parameters(), self.buffers()))

    def check_on_batches(self, opt, n_classes: int, *, needs_tuples: bool) -> None:
        """UserError when the loss cannot be computed from random embeddings of every kind of batch
        that `--data_sampler` can draw.

        With `needs_tuples` also when its value is the same for any tuples, as that of
        classification losses: `shared` and `intra` would then learn what `discriminative` learns.
        """
        batches = datasampler.examples(opt, n_classes)
        if criteria.needs(opt.diva_features, "even batch"):
            batches = {what: labels[:opt.bs // 2] * 2 for what, labels in batches.items()}
        with torch.random.fork_rng(devices=[]):
            for what, labels in batches.items():
                if fault := self.fault(labels, opt.embed_dim):
                    miner = f" mined by {self.batchminer.name!r}" if self.batchminer else ""
                    batch = f" of a batch with {what}" if what else ""
                    refuse("--loss", f"{self.name} cannot be computed from embeddings and "
                           f"labels{miner}{batch}: {fault}",
                           "a loss that can, its arguments by --pml_loss_args"
                           + self.hint(opt, n_classes))
            if needs_tuples:
                self.check_uses_tuples(opt.embed_dim, batches[""])

    def fault(self, labels: Sequence[int], dim: int) -> str | None:
        """What goes wrong in a step with random embeddings of these `labels`, if anything does."""
        embeddings = F.normalize(torch.randn(len(labels), dim), dim=1).requires_grad_()
        try:
            loss = copy.deepcopy(self)(embeddings, torch.tensor(labels))
            loss.backward()
        except Exception as error:
            return guests.one_line(error)
        return None if loss.isfinite() else f"it is {loss.item()}"

    def hint(self, opt, n_classes: int) -> str:
        """Options with which this loss can be computed, where classes of equal size are enough."""
        size = min(opt.bs // opt.samples_per_class, n_classes) * opt.samples_per_class
        equal = [row // opt.samples_per_class for row in range(size)]
        if not equal or self.fault(equal, opt.embed_dim):
            return ""
        return ", or --data_sampler class_random_unique" + (
            f" --bs {size}" if size != opt.bs else "")

    def check_uses_tuples(self, dim: int, labels: Sequence[int]) -> None:
        """UserError when the value is the same for any tuples."""
        rows, labels = torch.arange(len(labels)), torch.tensor(labels)
        embeddings = F.normalize(torch.randn(len(labels), dim), dim=1)
        near, far = (copy.deepcopy(self.loss)(embeddings, labels, (rows, *partners))
                     for partners in ((rows.roll(1), rows.roll(2)), (rows.roll(3), rows.roll(5))))
        if near.equal(far) and near != 0:
            refuse("--diva_features", f"--loss {self.name} does not compare the rows of a tuple, "
                   "so it cannot teach shared or intra",
                   "a loss on pairs or triplets, or neither of the two")

    def memory(self) -> dict[str, bool | int | float | Tensor]:
        """What the guest keeps outside parameters and buffers, e.g. the position in a queue.

        NumPy's numbers become plain ones, because a checkpoint with NumPy's does not load.
        """
        return {f"{name}.{attribute}": value.item() if isinstance(value, np.generic) else value
                for name, module in self.loss.named_modules()
                for attribute, value in vars(module).items()
                if isinstance(value, (bool, int, float, np.number, np.bool_, Tensor))
                and attribute != "training" and not attribute.startswith("_")}

    def remember(self, name: str, value) -> None:
        module, attribute = name.rsplit(".", 1)
        setattr(self.loss.get_submodule(module), attribute, value)

    def get_extra_state(self) -> dict:
        return self.memory()

    def set_extra_state(self, state: dict) -> None:
        """Moves each tensor to the device of the one that it replaces, else to the criterion's."""
        present = self.memory()
        first = next(itertools.chain(self.parameters(), self.buffers()), None)
        for name, value in state.items():
            if isinstance(value, Tensor):
                replaced = present.get(name)
                target = replaced if isinstance(replaced, Tensor) else first
                value = value if target is None else value.to(target.device)
            self.remember(name, value)


def indices_tuple(kind: str, tuples) -> tuple[Tensor, ...]:
    """The valid ones among a miner's `tuples` of that `kind`, in the library's form.

    "triplets" become (anchors, positives, negatives); "npairs" and "sets" become (anchors,
    positives, anchors, negatives), every pair once.
    """
    valid = tuples.valid
    if kind == "sets":
        rows = valid[:, None]
        return (*(tuples.positives & rows).nonzero(as_tuple=True),
                *(tuples.negatives & rows).nonzero(as_tuple=True))
    anchors, positives = tuples.anchors[valid], tuples.positives[valid]
    if kind == "triplets":
        return anchors, positives, tuples.negatives[valid]
    pairs, negatives = tuples.negatives[valid].nonzero(as_tuple=True)
    return anchors, positives, anchors[pairs], negatives
