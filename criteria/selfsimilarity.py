"""Self-similarity: what makes one image itself, by momentum contrast (He et al. 2020, arXiv
1911.05722), with the criterion `fast_moco` as DaNCE (Milbich et al. 2020, arXiv 2004.13458, 3.2).

Queries are the head's embeddings of the main view, keys those of the second view by the key
network, an exponential moving average of the network in evaluation mode:

    key network <- momentum * key network + (1 - momentum) * query network

A step compares queries with the old queue; after it the key network moves and the keys enter the
queue. Deviation from the original: the BatchNorm statistics of the key network are those of the
query network. The original leaves them at their start, which is wrong unless BatchNorm is frozen.
"""

import copy
import itertools

import torch
from torch import Tensor, nn
from tqdm import tqdm

import criteria
from criteria import features
from datasets import Batch

# Epoch numbers of batches that are drawn to fill the queue, which no training reaches.
FILLING = 2**31


class Feature(features.Feature):
    remedy = ("a higher --diva_moco_temperature, such as 0.1; with --diva_ssl fast_moco also "
              "--diva_dance weighted")

    def __init__(self, name, criterion, weight, *, network: nn.Module, momentum: float,
                 n_key_batches: int):
        super().__init__(name, criterion, weight)
        self.momentum, self.n_key_batches = momentum, n_key_batches
        self.key_network = copy.deepcopy(network).requires_grad_(False).eval()

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        return cls(name, criteria.select(opt.diva_ssl, opt, **sizes), opt.diva_alpha_ssl,
                   network=network, momentum=opt.diva_moco_momentum,
                   n_key_batches=opt.diva_moco_n_key_batches)

    def train(self, mode: bool = True):
        super().train(mode)
        self.key_network.eval()
        return self

    def compile(self) -> None:
        self.key_network.compile()

    def begin(self, run: features.Run) -> None:
        """Fills the queue with keys of main views."""
        epochs = map(run.training.epoch, itertools.count(FILLING))
        batches = itertools.islice(itertools.chain.from_iterable(epochs), self.n_key_batches)
        for batch in tqdm(batches, "Filling the queue", self.n_key_batches, leave=False,
                          disable=None, unit="batch"):
            keys, = run.processes.gather([self.embed(batch.images)])
            self.criterion.enqueue(keys)

    def embed_keys(self, batch: Batch) -> Tensor:
        return self.embed(batch.second_views)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> keys (B, embed_dim)."""
        return self.key_network(images)[0][self.name]

    def loss(self, step: features.Step) -> Tensor:
        return self.criterion(step.embeddings[self.name], step.keys[self.name])

    @torch.no_grad()
    def after_step(self, step: features.Step, network: nn.Module) -> None:
        torch._foreach_lerp_(list(self.key_network.parameters()), list(network.parameters()),
                             1 - self.momentum)
        by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for pair in zip(self.key_network.buffers(), network.buffers(), strict=True):
            by_dtype.setdefault(pair[0].dtype, []).append(pair)
        for pairs in by_dtype.values():     # a list of one dtype costs one kernel
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        self.criterion.enqueue(step.keys[self.name])

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        return {"Temp": {"temp": float(self.criterion.clamped_temperature.detach())}}
