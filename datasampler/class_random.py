"""Class-balanced batches: B/S classes, S images of each.

`class_random`: classes and images uniformly with replacement, as in the original, so a class may be
drawn twice. `class_random_unique`: both without replacement; where there are too few classes or a
class is too small, everything is drawn once before anything is repeated.
"""

from __future__ import annotations

import numpy as np

from datasampler.base import BatchSampler, spread


class Sampler(BatchSampler):
    def __init__(self, labels: np.ndarray, *, unique: bool, **shared):
        """shared: see `BatchSampler`."""
        super().__init__(labels, **shared)
        self.unique = unique

    @classmethod
    def from_opt(cls, name: str, opt, dataset) -> Sampler:
        return cls(dataset.labels, batch_size=opt.bs, samples_per_class=opt.samples_per_class,
                   seed=opt.seed, unique=name == "class_random_unique")

    def draw(self, rng: np.random.Generator, snapshot: None) -> np.ndarray:
        if not self.unique:
            classes = self.random_classes(rng, self.n_groups)
            return self.images_of(rng, classes, self.samples_per_class).ravel()
        classes, times = np.unique(spread(rng, len(self.counts), self.n_groups),
                                   return_counts=True)
        order = rng.permutation(len(classes))
        return np.concatenate([
            self.members[self.starts[c] + spread(rng, self.counts[c], n * self.samples_per_class)]
            for c, n in zip(classes[order], times[order], strict=True)])
