"""An embedding of every training image, for samplers that choose by embeddings.

A new embedding v of an image replaces the stored one, s; with a momentum mu > 0

    delta <- mu delta + (1 - mu) (v - s),   s <- v + eta delta.

The original refers to this storage and never creates it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utilities.errors import refuse
from utilities.geometry import squared_distances


class Storage:
    """Embeddings (N, D) float32, on the device where they are made.

    n_images: N; momentum: mu, off unless > 0; step: eta; follows: whether `update` has an effect
    (not with --data_storage_no_update, nor with --data_idx_full_prec, where `fill` is called before
    each epoch); n_candidates: M, at most N; projection_dim: see `points`.
    """

    def __init__(self, n_images: int, *, momentum: float, step: float, follows: bool,
                 n_candidates: int, projection_dim: int):
        self.n_images, self.momentum, self.step, self.follows = n_images, momentum, step, follows
        self.n_candidates, self.projection_dim = min(n_candidates, n_images), projection_dim
        self.embeddings: Tensor | None = None
        self.delta: Tensor | None = None

    @classmethod
    def from_opt(cls, opt, dataset) -> Storage:
        return cls(len(dataset.labels), momentum=opt.data_mb_mom, step=opt.data_mb_lr,
                   follows=not (opt.data_storage_no_update or opt.data_idx_full_prec),
                   n_candidates=opt.data_batchmatch_bigbs,
                   projection_dim=opt.data_sampler_lowproj_dim)

    def fill(self, embeddings: Tensor) -> None:
        """Takes all embeddings (N, D); after the first call by the rule above."""
        assert len(embeddings) == self.n_images
        embeddings = embeddings.detach().float()
        if self.embeddings is None:
            self.embeddings = embeddings.clone()
            self.delta = torch.zeros_like(embeddings) if self.momentum > 0 else None
        else:
            self._replace(slice(None), embeddings)

    def update(self, indices: Tensor, embeddings: Tensor) -> None:
        """Takes a batch's indices (B,) and embeddings (B, D), without waiting for the device. The
        first embedding of a repeated image counts, so that the order of writing does not matter."""
        if not self.follows:
            return
        self._check_filled()
        indices = indices.to(embeddings.device, non_blocking=True)
        first = (indices[:, None] == indices).int().argmax(1)
        self._replace(indices, embeddings.detach().float()[first])

    def _replace(self, rows: slice | Tensor, new: Tensor) -> None:
        self.embeddings = self.embeddings.to(new.device)    # elsewhere only after a checkpoint
        if self.momentum > 0:
            self.delta = self.delta.to(new.device)
            step = torch.lerp(new - self.embeddings[rows], self.delta[rows], self.momentum)
            self.delta[rows] = step
            new = new + self.step * step
        self.embeddings[rows] = new

    def snapshot(self) -> Tensor:
        """A copy on the host (N, D). RuntimeError before the first `fill`."""
        self._check_filled()
        return self.embeddings.to("cpu", copy=True)

    def _check_filled(self) -> None:
        if self.embeddings is None:
            raise RuntimeError("the sampler's storage is empty: call fill(embeddings) with an "
                               "embedding of every training image first")

    def candidates(self, rng: np.random.Generator) -> np.ndarray:
        """Different random images (M,), among which a batch is chosen."""
        return rng.choice(self.n_images, self.n_candidates, replace=False)

    def points(self, rng: np.random.Generator, snapshot: Tensor, images: np.ndarray) -> Tensor:
        """The images' embeddings (M, D) float64; with a positive projection_dim mapped to that many
        dimensions by a new random matrix."""
        points = snapshot[torch.from_numpy(images)].double()
        if self.projection_dim > 0:
            shape = points.shape[1], self.projection_dim
            points = points @ torch.from_numpy(rng.normal(size=shape) / np.sqrt(shape[1]))
        return points

    def state_dict(self) -> dict:
        return {"embeddings": self.embeddings, "delta": self.delta}

    def load_state_dict(self, state: dict) -> None:
        """UserError where the state is that of another number of images."""
        if state["embeddings"] is not None and len(state["embeddings"]) != self.n_images:
            refuse("--skip_broken_images", f"leaves {self.n_images:,} training images, but the "
                   f"sampler has embeddings of {len(state['embeddings']):,}",
                   "the same files as before")
        self.embeddings, self.delta = (
            None if state[key] is None else state[key].clone() for key in ("embeddings", "delta"))


def pairwise_squared_distances(points: Tensor) -> Tensor:
    """points (M, D) float64 -> (M, M); centred first, since rounding grows with the norms."""
    centred = points - points.mean(0)
    return squared_distances(centred, centred).fill_diagonal_(0)
