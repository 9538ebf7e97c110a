"""Batches that are random over classes, or over images.

`random` and `full_random`: B times a uniform class and a uniform image of it. `rrandom`: the same
B - 1 times, then an image of the class of one of them, so that there is a positive pair.
`random_semi_class`: B/2 times a uniform image and a uniform image of its class. All with
replacement.
"""

from __future__ import annotations

import numpy as np

from datasampler.base import BatchSampler


class Sampler(BatchSampler):
    def __init__(self, labels: np.ndarray, name: str, *, batch_size: int, seed: int):
        super().__init__(labels, batch_size=batch_size, seed=seed)
        self.draw_batch = {"random": self.of_random_classes, "full_random": self.of_random_classes,
                           "rrandom": self.with_a_pair, "random_semi_class": self.pairs}[name]

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        return cls(dataset.labels, name, batch_size=opt.bs, seed=opt.seed)

    def draw(self, rng: np.random.Generator, snapshot: None) -> np.ndarray:
        return self.draw_batch(rng, self.batch_size)

    def of_random_classes(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return self.images_of(rng, self.random_classes(rng, n), 1).ravel()

    def with_a_pair(self, rng: np.random.Generator, n: int) -> np.ndarray:
        images = self.of_random_classes(rng, n - 1)
        partner = self.images_of(rng, self.class_of[rng.choice(images, 1)], 1)
        return np.append(images, partner)

    def pairs(self, rng: np.random.Generator, n: int) -> np.ndarray:
        assert n % 2 == 0
        return self.filled_up(rng, rng.integers(len(self.labels), size=n // 2), 2)
