"""Normalised mutual information of a k-means clustering and the classes.

    NMI = I(classes; clusters) / ((H(classes) + H(clusters)) / 2)

with the arithmetic mean of the entropies; 1 where both are a single group. k is the number of
classes of the evaluated split (the original takes the number of training classes).
"""

import torch

from metrics import base
from metrics.clusters import contingency


class Metric(base.Metric):
    requires = ("target_labels", "computed_cluster_labels")

    def measure(self, split) -> float:
        joint, classes, clusters = (count.double() / len(split.labels)
                                    for count in contingency(split.labels, split.clusters[1]))
        entropies = _entropy(classes) + _entropy(clusters)
        if entropies == 0:
            return 1.0
        information = entropies - _entropy(joint)
        return max(0.0, float(2 * information / entropies))


def _entropy(shares: torch.Tensor) -> torch.Tensor:
    return -(shares * shares.log()).sum()
