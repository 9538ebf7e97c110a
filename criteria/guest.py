"""Losses of pytorch-metric-learning (Musgrave et al. 2020, arXiv 2008.09164): `pml:<Class>`.

    L = loss(embeddings, labels, indices_tuple)

`--pml_loss_args` holds the constructor's arguments (see `utilities.guests`), the number of classes
and the embedding's width are filled in, and "lr" is the learning rate of the guest's parameters, by
default 5e-4. `indices_tuple` holds the valid tuples of a miner. A guest may wait for the device.
"""

import copy
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import criteria
from utilities import guests
from utilities.errors import refuse


class Criterion(nn.Module):
    def __init__(self, loss: nn.Module, batchminer, *, lr: float | None):
        super().__init__()
        self.loss, self.batchminer, self.lr = loss, batchminer, lr

    @classmethod
    def from_opt(cls, name, opt, *, n_classes, batchminer=None, **_):
        arguments = dict(opt.pml_loss_args)
        lr = arguments.pop("lr", None)
        loss = guests.build(name, "losses", arguments, flag="--loss",
                            arguments_flag="--pml_loss_args", num_classes=n_classes,
                            embedding_size=opt.embed_dim, descriptors_dim=opt.embed_dim,
                            l=opt.embed_dim)
        learns = next(loss.parameters(), None) is not None
        if lr is not None and not learns:
            refuse("--pml_loss_args", f"lr {lr!r}, but {name} with {arguments} has nothing to "
                   "learn", "arguments without lr")
        if lr is not None and (type(lr) not in (int, float) or lr < 0):
            refuse("--pml_loss_args", f"lr {lr!r}", "a number of at least 0")
        if learns:
            lr = 5e-4 if lr is None else float(lr)
        criterion = cls(loss, batchminer, lr=lr)
        labels = torch.arange(opt.bs) // opt.samples_per_class % n_classes
        # Here it is not known whether the criterion is for such a feature or the main loss.
        on_tuples = batchminer is not None and criteria.needs(opt.diva_features, "triplets")
        criterion.check_on_a_batch(name, labels, opt.embed_dim, needs_tuples=on_tuples)
        return criterion

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
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

    def check_on_a_batch(self, name: str, labels: Tensor, dim: int, *, needs_tuples: bool) -> None:
        """UserError when the loss cannot be computed from random embeddings with these `labels`.

        With `needs_tuples` also when its value is the same for any tuples, as that of
        classification losses: `shared` and `intra` would then learn what `discriminative` learns.
        """
        with torch.random.fork_rng(devices=[]):
            embeddings = F.normalize(torch.randn(len(labels), dim), dim=1).requires_grad_()
            try:
                loss = copy.deepcopy(self)(embeddings, labels)
                loss.backward()
            except Exception as error:
                miner = "" if self.batchminer is None else f" mined by {self.batchminer.name!r}"
                refuse("--loss", f"{name} cannot be computed from embeddings and labels{miner}: "
                       f"{guests.one_line(error)}",
                       "a loss that can, its arguments by --pml_loss_args")
            if needs_tuples:
                rows = torch.arange(len(labels))
                near, far = (copy.deepcopy(self.loss)(embeddings, labels, (rows, *partners))
                             for partners in ((rows.roll(1), rows.roll(2)),
                                              (rows.roll(3), rows.roll(5))))
                if near.equal(far) and near != 0:
                    refuse("--diva_features", f"--loss {name} does not compare the rows of a "
                           "tuple, so it cannot teach shared or intra",
                           "a loss on pairs or triplets, or neither of the two")

    def memory(self) -> dict[str, bool | int | float | Tensor]:
        """What the guest keeps outside parameters and buffers, e.g. the position in a queue.

        NumPy's numbers become plain ones, because a checkpoint with NumPy's does not load.
        """
        return {f"{name}.{attribute}": value.item() if isinstance(value, np.generic) else value
                for name, module in self.loss.named_modules()
                for attribute, value in vars(module).items()
                if isinstance(value, (bool, int, float, np.number, np.bool_, Tensor))
                and attribute != "training"}

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
