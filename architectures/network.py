"""One backbone, one linear head with bias per feature (Milbich et al. 2020, arXiv 2004.13458).

    trunk = pool(backbone(images)),  e_f = W_f trunk + b_f,  normalised: e_f / ||e_f||

The backbone computes in the network's precision, pooled features become float32, and heads and
normalisation compute in float32. The names of the parameters are those of the original's
checkpoints: `model.*` and `model.last_linear.<feature>.*`.

Heads that no loss reaches (see `criteria.PARTS`) stay random projections of the trunk. Deviation
from the original: they are excluded from training (there the optimiser holds them, but they never
get a gradient).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import criteria
from architectures import Arch, backbones, folding, weights
from architectures.batch_norm import keeps_statistics
from utilities.errors import refuse
from utilities.geometry import unit

# The number format of autocast for each `--precision`, None without autocast.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network(nn.Module):
    """images (B, 3, H, W) -> ({feature: (B, embed_dim)}, trunk (B, feature_dim)), all float32.

    `precision` is the number format in which the backbone computes, None for that of its weights.
    `chunk`: how many images are embedded at once, 0 for all. In training, each chunk is embedded
    without a graph and once more in the backward pass, so that memory holds the graph of one chunk
    (GradCache, Gao et al. 2021, arXiv 2101.06983). Losses see the whole batch.
    `trained_on` tells which classes the weights were trained on beside ImageNet's, as {dataset's
    name: class names}; None where their file does not say.
    """

    def __init__(self, backbone: backbones.Pooled, feature_dim: int, *, features: list[str],
                 embed_dim: int, frozen: bool, normalize: bool,
                 precision: torch.dtype | None = None, chunk: int = 0):
        super().__init__()
        folding.fold(backbone)
        self.model, self.pool = backbone.model, backbone.pool
        self.feature_dim, self.frozen, self.normalize = feature_dim, frozen, normalize
        self.precision, self.chunk = precision, chunk
        self.resting: list[nn.Parameter] = []   # of the backbone, while `rest` holds it
        self.trained_on: dict[str, list[str]] | None = {}
        self.model.last_linear = nn.ModuleDict(
            {feature: nn.Linear(feature_dim, embed_dim) for feature in features})
        for feature, head in self.heads.items():
            head.requires_grad_(not criteria.needs([feature], "trunk alone"))
        self.train()

    @classmethod
    def from_opt(cls, arch: Arch, opt, *, pretrained: bool = True) -> Network:
        name = arch.backbone
        chunk = opt.grad_cache_chunk
        backbone = backbones.build(name, opt.crop_size)
        if chunk and not arch.frozen and any(map(keeps_statistics, backbone.modules())):
            refuse("--grad_cache_chunk", f"{chunk} given, but {name} trains BatchNorm, whose "
                   "statistics are those of the whole batch", f"--arch {name}_frozen, or 0")
        feature_dim = backbones.feature_dim(backbone, name, opt.crop_size)
        network = cls(backbone, feature_dim, features=opt.diva_features, embed_dim=opt.embed_dim,
                      frozen=arch.frozen, normalize=arch.normalize,
                      precision=PRECISIONS[opt.precision], chunk=chunk)
        if pretrained and not opt.not_pretrained:
            weights.initialise(network, name, opt.weights_path, opt.crop_size)
        return network

    @property
    def heads(self) -> nn.ModuleDict:
        return self.model.last_linear

    def train(self, mode: bool = True) -> Network:
        """Frozen BatchNorms stay in evaluation mode; their weights and biases still train. So do
        those of a resting backbone."""
        super().train(mode)
        if self.frozen or self.resting:
            for module in self.modules():
                if keeps_statistics(module):
                    module.eval()
        return self

    def rest(self, resting: bool) -> Network:
        """From the next `train` on, whether the backbone stays as it is, with the statistics of its
        BatchNorms, while the heads learn."""
        if resting and not self.resting:
            heads = set(self.heads.parameters())
            self.resting = [parameter for parameter in self.parameters()
                            if parameter.requires_grad and parameter not in heads]
        for parameter in self.resting:
            parameter.requires_grad_(not resting)
        if not resting:
            self.resting = []
        return self

    def trunk(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> pooled features (B, feature_dim), without the heads."""
        with torch.autocast(images.device.type, dtype=self.precision,
                            enabled=self.precision is not None):
            return self.pool(self.model, images).float()

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if not self.chunk:
            return self.embed(images)
        embed = (partial(checkpoint, self.embed, use_reentrant=False) if torch.is_grad_enabled()
                 else self.embed)
        embeddings, trunks = zip(*map(embed, images.split(self.chunk)), strict=True)
        return {feature: torch.cat([part[feature] for part in embeddings])
                for feature in self.heads}, torch.cat(trunks)

    def embed(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Like `forward`, of all images at once."""
        trunk = self.trunk(images)
        if self.resting and torch.is_grad_enabled():
            trunk.requires_grad_()      # since shares of the gradient are measured here, too
        embeddings = {feature: head(trunk) for feature, head in self.heads.items()}
        if self.normalize:
            embeddings = {feature: unit(embedding)
                          for feature, embedding in embeddings.items()}
        return embeddings, trunk

    def parameter_groups(self, *, lr: float, fc_lr: float, decay: float) -> list[dict]:
        """Optimiser groups: the backbone at `lr`, the heads at `fc_lr` (at `lr` when negative)."""
        heads = {id(parameter) for parameter in self.heads.parameters()}
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"name": "network", "params": [p for p in trained if id(p) not in heads], "lr": lr,
             "weight_decay": decay},
            {"name": "heads", "params": [p for p in trained if id(p) in heads],
             "lr": fc_lr if fc_lr >= 0 else lr, "weight_decay": decay},
        ]
