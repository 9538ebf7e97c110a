"""Adversarial decorrelation of heads (Milbich et al. 2020, arXiv 2004.13458, section 3.3).

    c_st = - mean over batch and dimension of (phi_t * r_st)^2,   r_st = normalised MLP_st(phi_s)
    L = sum_st rho_st c_st

with phi the unit embeddings of the source s and the target t, and a two-layer MLP for each pair.
Gradients are reversed between the network and phi: the MLP learns to predict the target's embedding
from the source's, and the network learns to make that impossible.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from criteria import features
from utilities.geometry import unit


class Criterion(nn.Module):
    def __init__(self, directions: Sequence[str], rho: Sequence[float], *, embed_dim: int,
                 hidden_dim: int, lr: float):
        """directions: each "source-target"; rho: the weight of each direction."""
        super().__init__()
        assert len(directions) == len(rho) > 0, (directions, rho)
        self.directions, self.lr = list(directions), lr
        self.register_buffer("rho", torch.tensor(rho, dtype=torch.float32), persistent=False)
        self.regressors = nn.ModuleDict({
            direction: nn.Sequential(nn.Linear(embed_dim, hidden_dim), nn.ReLU(),
                                     nn.Linear(hidden_dim, embed_dim))
            for direction in self.directions})

    @classmethod
    def from_opt(cls, opt, **_):
        return cls(opt.diva_decorrelations, opt.diva_rho_decorrelation, embed_dim=opt.embed_dim,
                   hidden_dim=opt.diva_decorrnet_dim, lr=opt.diva_decorrnet_lr)

    def forward(self, embeddings: dict[str, Tensor]) -> Tensor:
        """embeddings: {feature: (B, embed_dim)}, also of features in no pair -> scalar."""
        return self.rho @ self.correlations(embeddings)

    def correlations(self, embeddings: dict[str, Tensor]) -> Tensor:
        """c of each of the P directions, without the weights rho: (P,)."""
        pairs = [direction.split("-") for direction in self.directions]
        phi = {name: unit(ReversedGradient.apply(embeddings[name]))
               for name in dict.fromkeys(name for pair in pairs for name in pair)}
        targets = torch.stack([phi[target] for _, target in pairs])           # (P, B, D)
        r = torch.stack([self.regressors[direction](phi[source])
                         for direction, (source, _) in zip(self.directions, pairs, strict=True)])
        return -(targets * unit(r, dim=2)).square().mean((1, 2))


class ReversedGradient(torch.autograd.Function):
    """The identity, whose gradient has the opposite sign (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Feature(features.Feature):
    """The summand of all pairs. Its criterion holds the weights rho, so its own weight is 1, or 0
    where every rho is 0."""

    remedy = "a larger --diva_rho_decorrelation"

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        criterion = Criterion.from_opt(opt, **sizes)
        return cls(name, criterion, weight=float(criterion.rho.any()))

    @property
    def formula(self) -> str:
        return " + ".join(f"{rho:g} c({direction.replace('-', ' -> ')})" for direction, rho in
                          zip(self.criterion.directions, self.criterion.rho, strict=True))

    def loss(self, step: features.Step) -> Tensor:
        return self.criterion(step.embeddings)

    def scalars(self, mean_loss: float) -> dict[str, dict[str, float]]:
        return {self.name: {self.name: mean_loss}}
