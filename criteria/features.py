"""What a DiVA feature is: a head of the network, the criterion that teaches it, and its moments.

    L = L_discriminative + a_ssl L_ssl + a_shared L_shared + a_intra L_intra
        [+ L_invariantspread + L_dc + L_imrot] + sum_k rho_k c_k

(Milbich et al. 2020, arXiv 2004.13458, section 3.) Each summand is one object. Once in a run it
may `begin`, and in every epoch act `before_epoch`. A training step then has three parts:

    forward      prepares the batch and calls every network: batch -> Step
    loss         of each feature, from the Step alone, without calling a network
    after_step   of each feature, after the optimiser's step

`Feature` is taught by class labels. A new idea is a file with a subclass called `Feature` that
overrides the moments it needs, and a line in `criteria.PARTS`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

import batchminer
import criteria
from datasets import Batch
from utilities import registry
from utilities.distributed import ALONE, Alone
from utilities.options import GUEST

DECORRELATION = "sep. loss"     # its name in logs, as in the original


class Step(NamedTuple):
    """What the losses of one training step are computed from: what networks make of its batch."""

    batch: Batch                    # views of the share of this process, all else of the batch
    embeddings: dict[str, Tensor]   # {feature: (B, embed_dim)} of the main view
    trunk: Tensor                   # (B, feature_dim) of the main view
    further_views: dict[str, tuple[dict[str, Tensor], Tensor]]  # {view: (embeddings, trunk) of it}
    keys: dict[str, Tensor | None]  # {feature: (B, embed_dim) by its key network, or None}


class Run(NamedTuple):
    """What the features may use between the steps."""

    network: nn.Module
    training: object                # loader of training batches, as the sampler draws them
    training_images: object         # loader of every training image once, augmented
    optimiser: torch.optim.Optimizer
    processes: Alone = ALONE


class Feature(nn.Module):
    """Taught by class labels: criterion(embeddings of the head `name`, labels).

    Also the base class of all others. `discriminative`, `ensemble_1` to `ensemble_3`, `shared` and
    `intra` are objects of this class; the last two differ in weight and in the miner of their
    criterion.
    """

    # What helps where the term teaches nothing (see `criteria.teaching`).
    remedy = "--batch_mining with harder tuples, or a larger margin of --loss"
    # Views, by their names in `Batch`, that the network embeds for this feature beside `images`;
    # not those that a key network embeds or `prepare` makes part of the images.
    further_views: tuple[str, ...] = ()

    def __init__(self, name: str, criterion: nn.Module, weight: float = 1.0):
        super().__init__()
        self.name, self.criterion, self.weight = name, criterion, weight

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        """sizes: `n_classes`, `feature_dim` and `n_samples`, as `criteria.select` takes them."""
        weight = {"shared": opt.diva_alpha_shared, "intra": opt.diva_alpha_intra}.get(name, 1.0)
        # A guest loss can do without tuples, so it mines only where the user names a miner.
        mines = (criteria.needs([name], "triplets") or opt.loss in criteria.TAKES
                 or (opt.loss.startswith(GUEST) and "batch_mining" in opt.given))
        miner = batchminer.select(criteria.miner_of(name, opt), opt) if mines else None
        return cls(name, criteria.select(opt.loss, opt, batchminer=miner, **sizes), weight)

    @property
    def formula(self) -> str:
        """The summand, as the objective printed at the start shows it."""
        return f"{'' if self.weight == 1 else f'{self.weight:g} '}L_{self.name}"

    def parameter_groups(self) -> list[dict]:
        """The criterion's parameters, at the criterion's learning rate and without decay."""
        parameters = list(self.criterion.parameters())
        return [{"params": parameters, "lr": self.criterion.lr, "weight_decay": 0.0,
                 "name": f"criterion of {self.name}"}] if parameters else []

    def compile(self) -> None:
        """Compiles the networks that belong to this feature alone."""

    def begin(self, run: Run) -> None:
        """Before the first epoch of a new run (not of a resumed one)."""

    def before_epoch(self, run: Run, epoch: int) -> None:
        """Before the batches of `epoch` are drawn."""

    def prepare(self, batch: Batch) -> Batch:
        """The batch that all networks and losses are to see in place of `batch`."""
        return batch

    def embed_keys(self, batch: Batch) -> Tensor | None:
        """(b, embed_dim) of the views in `batch`, without gradient, where the feature has a key
        network of its own."""

    def loss(self, step: Step) -> Tensor:
        """A scalar, not multiplied by `weight`."""
        return self.criterion(step.embeddings[self.name], step.batch.labels)

    def after_step(self, step: Step, network: nn.Module) -> None:
        """After the optimiser's step on `network`."""

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        """What to log after an epoch beside its mean loss: {group: {segment: number}}."""
        return {}


def assemble(opt, *, network: nn.Module, n_classes: int, n_samples: int) -> nn.ModuleList:
    """The summands of the objective for `opt.diva_features` and `opt.diva_decorrelations`."""
    modules = criteria.FEATURES | {DECORRELATION: "criteria.adversarial_separation"}
    names = [*opt.diva_features, *([DECORRELATION] if opt.diva_decorrelations else [])]
    return nn.ModuleList(
        registry.load(modules, name, flag="--diva_features").Feature.from_opt(
            name, opt, network=network, n_classes=n_classes, feature_dim=network.feature_dim,
            n_samples=n_samples)
        for name in names)


def forward(network: nn.Module, objective: nn.ModuleList, batch: Batch,
            processes: Alone = ALONE) -> Step:
    """Everything in a training step that calls a network; the losses only read the result. Each of
    several processes embeds its share, and all get the whole batch."""
    for feature in objective:
        batch = feature.prepare(batch)
    embeddings, trunk = embed(network, batch.images, processes)
    views = dict.fromkeys(view for feature in objective for view in feature.further_views)
    assert None not in [getattr(batch, view) for view in views], (
        f"no line of criteria.PARTS asks for all of {', '.join(views)}")
    further = {view: embed(network, getattr(batch, view), processes) for view in views}
    keys = {feature.name: feature.embed_keys(batch) for feature in objective}
    keys |= {name: processes.gather([own])[0] for name, own in keys.items() if own is not None}
    return Step(batch, embeddings, trunk, further, keys)


def embed(network: nn.Module, images: Tensor, processes: Alone) -> tuple[dict[str, Tensor], Tensor]:
    """images (b, 3, H, W) of this process -> (embeddings, trunk) of the batch, as `network` gives
    them."""
    embeddings, trunk = network(images)
    *heads, trunk = processes.gather([*embeddings.values(), trunk])
    return dict(zip(embeddings, heads, strict=True)), trunk


def formula(objective: nn.ModuleList) -> str:
    """The whole objective in one line; says so where no heads are decorrelated."""
    decorrelated = any(feature.name == DECORRELATION for feature in objective)
    return ("L = " + " + ".join(feature.formula for feature in objective)
            + ("" if decorrelated else "  (no decorrelation)"))


def main(objective: nn.ModuleList) -> Feature:
    """The discriminative feature, or the first where it is not trained."""
    return next((f for f in objective if f.name == "discriminative"), objective[0])
