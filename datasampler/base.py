"""The base of all samplers: batches of dataset indices that follow from (seed, epoch) and, for
samplers that choose by embeddings, from the storage at the beginning of the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from datasampler.storage import Storage


class BatchSampler:
    """Iterates the batches of one epoch: len(labels) // batch_size lists of batch_size indices.

    labels (N,) int64. samples_per_class: S, for samplers that draw groups of a class. storage: the
    images' embeddings, for samplers that choose by them. An epoch's random numbers come from
    `np.random.default_rng([seed, epoch])`; `set_epoch` sets the next epoch, otherwise each
    iteration increments it. Subclasses define `draw`.
    """

    def __init__(self, labels: np.ndarray, *, batch_size: int, seed: int,
                 samples_per_class: int = 1, storage: Storage | None = None):
        assert len(labels) >= batch_size, (len(labels), batch_size)     # `datasets.select` checks
        assert batch_size % samples_per_class == 0
        self.labels, self.batch_size, self.seed = np.asarray(labels, np.int64), batch_size, seed
        self.samples_per_class, self.n_groups = samples_per_class, batch_size // samples_per_class
        self.storage, self.epoch = storage, 0
        # Images sorted by class: those of class c are members[starts[c]:starts[c] + counts[c]].
        _, self.class_of, self.counts = np.unique(
            self.labels, return_inverse=True, return_counts=True)
        self.members = np.argsort(self.labels, kind="stable")
        self.starts = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        snapshot = self.snapshot()
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        return (self.draw(rng, snapshot).tolist() for _ in range(len(self)))

    def snapshot(self):
        """What `draw` chooses by, as it is when an epoch begins."""
        return self.storage.snapshot() if self.uses_storage else None

    def draw(self, rng: np.random.Generator, snapshot) -> np.ndarray:
        """The next batch's dataset indices (batch_size,)."""
        raise NotImplementedError

    def random_classes(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n uniformly random classes, with replacement."""
        return rng.integers(len(self.counts), size=n)

    def images_of(self, rng: np.random.Generator, classes: np.ndarray, n: int) -> np.ndarray:
        """n random images, with replacement, of each of `classes` (C,) -> indices (C, n)."""
        offsets = rng.integers(self.counts[classes, None], size=(len(classes), n))
        return self.members[self.starts[classes, None] + offsets]

    def filled_up(self, rng: np.random.Generator, images: np.ndarray, n: int) -> np.ndarray:
        """images (k,) -> (k * n,): each followed by n - 1 random images of its class."""
        others = self.images_of(rng, self.class_of[images], n - 1)
        return np.hstack([images[:, None], others]).ravel()

    def with_partner(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """images (k,) -> (k + 1,): and a random image of the class of a random one of them."""
        return np.append(images, self.images_of(rng, self.class_of[rng.choice(images, 1)], 1))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    # The loop calls these for every sampler; without a storage they do nothing.

    @property
    def uses_storage(self) -> bool:
        return self.storage is not None

    def fill(self, embeddings: Tensor) -> None:
        """Takes the embedding of every training image (N, D), in the dataset's order."""
        if self.storage is not None:
            self.storage.fill(embeddings)

    def update(self, indices: Tensor, embeddings: Tensor) -> None:
        """Takes the embeddings (B, D) of a batch with the dataset indices (B,)."""
        if self.storage is not None:
            self.storage.update(indices, embeddings)

    def bind(self, criterion) -> None:
        """Takes the criterion by which `criterion_batchmatch` compares batches."""

    def state_dict(self) -> dict:
        """What batches depend on beside the epoch, which the loop sets."""
        return self.storage.state_dict() if self.storage is not None else {}

    def load_state_dict(self, state: dict) -> None:
        if self.storage is not None:
            self.storage.load_state_dict(state)


def spread(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """k draws from range(n), none repeated before all have been drawn."""
    rounds = [rng.permutation(n) for _ in range(k // n)]
    return np.concatenate([*rounds, rng.choice(n, k % n, replace=False)]).astype(np.int64)
