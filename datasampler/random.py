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
    def __init__(self, labels: np.ndarray, name: str, **shared):
        """shared: see `BatchSampler`."""
        super().__init__(labels, **shared)
        self.name = name

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        return cls(dataset.labels, name, batch_size=opt.bs, seed=opt.seed)

    def draw(self, rng: np.random.Generator, snapshot: None) -> np.ndarray:
        if self.name == "random_semi_class":
            assert self.batch_size % 2 == 0
            images = rng.integers(len(self.labels), size=self.batch_size // 2)
            return self.filled_up(rng, images, 2)
        paired = self.name == "rrandom"
        classes = self.random_classes(rng, self.batch_size - paired)
        images = self.images_of(rng, classes, 1).ravel()
        return self.with_partner(rng, images) if paired else images
