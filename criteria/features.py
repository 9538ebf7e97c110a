"""What a DiVA feature is: a head of the network, the criterion that teaches it, and its moments.

    L = L_discriminative + a_ssl L_ssl + a_shared L_shared + a_intra L_intra
        [+ L_invariantspread + L_dc + L_imrot] + sum_k rho_k c_k

(Milbich et al. 2020, arXiv 2004.13458, section 3.) Each summand is one object. The epoch loop
walks the objects through five moments: `begin` a run, `before_epoch`, `prepare` a batch, its
`loss`, `after_step`. A new idea is a subclass that overrides the moments it needs, and a line in
`FEATURES`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

import batchminer
import criteria
from datasets import Batch

# Epoch numbers of batches that are drawn to fill the queue: apart from those of training.
FILLING = 2**31


class Step(NamedTuple):
    """What the features see of one training step."""

    batch: Batch
    embeddings: dict[str, Tensor]  # {feature: (B, embed_dim)}
    trunk: Tensor  # (B, feature_dim)
    network: nn.Module


class Run(NamedTuple):
    """What the features may use between the steps."""

    network: nn.Module
    training: object  # loader of training batches, as the sampler draws them
    training_images: object  # loader of every training image once, augmented
    optimiser: torch.optim.Optimizer


class Feature(nn.Module):
    """Taught by class labels: criterion(embeddings of the head `name`, labels).

    Shared by `discriminative`, `shared` and `intra`, which differ in the miner of their criterion.
    """

    def __init__(self, name: str, criterion: nn.Module, weight: float = 1.0):
        super().__init__()
        self.name, self.criterion, self.weight = name, criterion, weight

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        miner, weight = {
            "discriminative": (opt.batch_mining, 1.0),
            "shared": (SHARING[opt.diva_sharing], opt.diva_alpha_shared),
            "intra": (INTRA[opt.diva_intra], opt.diva_alpha_intra),
        }[name]
        # A guest loss takes tuples or none: the main one mines only where the user names a miner.
        mines = (name != "discriminative" or opt.loss in criteria.TAKES
                 or (opt.loss.startswith("pml:") and "batch_mining" in opt.given))
        miner = batchminer.select(miner, opt) if mines else None
        return cls(name, criteria.select(opt.loss, opt, batchminer=miner, **facts), weight)

    @property
    def formula(self) -> str:
        """The summand, as the objective printed at the start shows it."""
        return f"{'' if self.weight == 1 else f'{self.weight:g} '}L_{self.name}"

    def parameter_groups(self) -> list[dict]:
        """The criterion's parameters at the criterion's own rate, without decay."""
        parameters = list(self.criterion.parameters())
        return [{"params": parameters, "lr": self.criterion.lr, "weight_decay": 0.0,
                 "name": f"criterion of {self.name}"}] if parameters else []

    def compile(self) -> None:
        """Compiles the networks that this feature alone has."""

    def begin(self, run: Run) -> None:
        """Before the first epoch of a new run (not of a resumed one)."""

    def before_epoch(self, run: Run, epoch: int) -> None:
        """Before the batches of `epoch` are drawn."""

    def prepare(self, batch: Batch) -> Batch:
        """The batch that the network is to see."""
        return batch

    def loss(self, step: Step) -> Tensor:
        return self.criterion(step.embeddings[self.name], step.batch.labels)

    def after_step(self, step: Step) -> None:
        """After the optimiser's step."""

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        """What to log after an epoch beside its mean loss: {group: {segment: number}}."""
        return {}


class SelfSimilarity(Feature):
    """Momentum contrast (He et al. 2020, arXiv 1911.05722), with `fast_moco` as DaNCE (DiVA, 3.2).

    Queries are the head's embeddings of the main view, keys those of the second view by the key
    network, an exponential moving average of the network in evaluation mode:
    key <- momentum * key + (1 - momentum) * query network. Its BatchNorm statistics are the query
    network's (the original leaves them at their start, wrong unless BatchNorm is frozen).
    """

    def __init__(self, name, criterion, weight, *, network: nn.Module, momentum: float,
                 n_key_batches: int):
        super().__init__(name, criterion, weight)
        self.momentum, self.n_key_batches = momentum, n_key_batches
        self.key_network = copy.deepcopy(network).requires_grad_(False).eval()

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        return cls(name, criteria.select(opt.diva_ssl, opt, **facts), opt.diva_alpha_ssl,
                   network=network, momentum=opt.diva_moco_momentum,
                   n_key_batches=opt.diva_moco_n_key_batches)

    def train(self, mode: bool = True):
        super().train(mode)
        self.key_network.eval()
        return self

    def compile(self) -> None:
        self.key_network.compile()

    def keys(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, embed_dim), constants for autograd."""
        with torch.inference_mode():
            return self.key_network(images)[0][self.name]

    def begin(self, run: Run) -> None:
        """Fills the queue with keys of main views."""
        batches = itertools.islice(endless(run.training, FILLING), self.n_key_batches)
        for batch in tqdm(batches, "Filling the queue", self.n_key_batches, leave=False,
                          disable=None, unit="batch"):
            self.criterion.enqueue(self.keys(batch.images))

    def loss(self, step: Step) -> Tensor:
        self.new_keys = self.keys(step.batch.second_views)
        return self.criterion(step.embeddings[self.name], self.new_keys)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        own, theirs = self.key_network, step.network
        torch._foreach_lerp_(list(own.parameters()), list(theirs.parameters()), 1 - self.momentum)
        by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for pair in zip(own.buffers(), theirs.buffers(), strict=True):
            by_dtype.setdefault(pair[0].dtype, []).append(pair)
        for pairs in by_dtype.values():     # a list of one dtype costs one kernel
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        self.criterion.enqueue(self.new_keys)

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        return {"Temp": {"temp": float(self.criterion.clamped_temperature.detach())}}


class InvariantSpread(Feature):
    """Instance discrimination (Ye et al. 2019, arXiv 1904.03436) inside the batch.

    The network sees the first half of the batch in two views; labels, indices and keys follow the
    images (in the original they do not).
    """

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        return cls(name, criteria.select("invariantspread", opt, **facts))

    def prepare(self, batch: Batch) -> Batch:
        half = len(batch.labels) // 2

        def twice(values):
            return None if values is None else torch.cat([values[:half], values[:half]])

        swapped = {"images": torch.cat([batch.images[:half], batch.second_views[:half]]),
                   "second_views": torch.cat([batch.second_views[:half], batch.images[:half]])}
        return Batch(**{field: swapped.get(field, twice(getattr(batch, field)))
                        for field in Batch._fields})

    def loss(self, step: Step) -> Tensor:
        return self.criterion(*step.embeddings[self.name].chunk(2))


class DeepClustering(Feature):
    """Cluster assignments as labels (Caron et al. 2018, arXiv 1807.05520), on the trunk."""

    def __init__(self, name, criterion, *, every: int):
        super().__init__(name, criterion)
        self.every = every

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        return cls(name, criteria.select("dc", opt, **facts), every=opt.diva_dc_update_f)

    def before_epoch(self, run: Run, epoch: int) -> None:
        """Clusters the training set anew; the new classifier starts without a history."""
        if epoch % self.every:
            return
        self.criterion.update(self.embed(run, epoch))
        for parameter in self.criterion.parameters():
            run.optimiser.state.pop(parameter, None)

    @torch.inference_mode()
    def embed(self, run: Run, epoch: int) -> Tensor:
        """The trunk of every training image under training augmentation, (N, feature_dim)."""
        training, n_images, filled = run.network.training, len(self.criterion.pseudo_labels), 0
        run.network.eval()
        for batch in tqdm(run.training_images.epoch(epoch), "Embedding for dc", leave=False,
                          disable=None, unit="batch"):
            _, trunk = run.network(batch.images)
            if not filled:
                trunks = trunk.new_empty(n_images, trunk.shape[1])
            trunks[filled:filled + len(trunk)] = trunk
            filled += len(trunk)
        run.network.train(training)
        assert filled == n_images, (filled, n_images)
        return trunks

    def loss(self, step: Step) -> Tensor:
        return self.criterion(step.trunk, step.batch.indices)


class RotationPrediction(Feature):
    """Which quarter turn was applied (Gidaris et al. 2018, arXiv 1803.07728), from the trunk of the
    rotated view (the original feeds the trunk of the unrotated one)."""

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        return cls(name, criteria.select("imrot", opt, **facts))

    def loss(self, step: Step) -> Tensor:
        _, trunk = step.network(step.batch.rotated_views)
        return self.criterion(trunk, step.batch.rotations)


class Decorrelation(Feature):
    """Adversarial decorrelation between heads (DiVA, section 3.3); see `adversarial_separation`."""

    @classmethod
    def from_opt(cls, name, opt, *, network, **facts):
        return cls(name, criteria.select("adversarial_separation", opt, **facts))

    @property
    def formula(self) -> str:
        return " + ".join(f"{rho:g} c({direction.replace('-', ' -> ')})" for direction, rho in
                          zip(self.criterion.directions, self.criterion.rho, strict=True))

    def loss(self, step: Step) -> Tensor:
        return self.criterion(step.embeddings)

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        return {self.name: {self.name: mean_loss}}


FEATURES = {
    "discriminative": Feature,
    "selfsimilarity": SelfSimilarity,
    "shared": Feature,
    "intra": Feature,
    "dc": DeepClustering,
    "imrot": RotationPrediction,
    "invariantspread": InvariantSpread,
}
SHARING = {"random": "random_distance", "standard": "shared_neg_distance",
           "full": "shared_full_distance"}
INTRA = {"random": "intra_random"}


def assemble(opt, *, network: nn.Module, n_classes: int, n_samples: int) -> nn.ModuleList:
    """The summands of the objective for `opt.diva_features` and `opt.diva_decorrelations`."""
    facts = {"n_classes": n_classes, "feature_dim": network.feature_dim, "n_samples": n_samples}
    names = list(opt.diva_features)
    objective = [FEATURES[name].from_opt(name, opt, network=network, **facts) for name in names]
    if opt.diva_decorrelations:
        objective.append(Decorrelation.from_opt("sep. loss", opt, network=network, **facts))
    return nn.ModuleList(objective)


def formula(objective: nn.ModuleList) -> str:
    """The whole objective in one line, which also says that heads are not decorrelated."""
    decorrelated = any(isinstance(feature, Decorrelation) for feature in objective)
    return ("L = " + " + ".join(feature.formula for feature in objective)
            + ("" if decorrelated else "  (no decorrelation)"))


def main(objective: nn.ModuleList) -> Feature:
    """The discriminative feature, or the first where it is not trained."""
    return next((f for f in objective if f.name == "discriminative"), objective[0])


def endless(loader, first_epoch: int) -> Iterator[Batch]:
    """Batches of `loader`, epoch after epoch."""
    return itertools.chain.from_iterable(map(loader.epoch, itertools.count(first_epoch)))
