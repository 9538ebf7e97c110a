"""Normalised mutual information of a k-means clustering and the classes, by scikit-learn.

    NMI = I(classes; clusters) / ((H(classes) + H(clusters)) / 2)

with the arithmetic mean of the entropies; 1 where both are a single group. k is the number of
classes of the evaluated split (the original takes the number of training classes).
"""

from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

TAKES = "assignment"


def measure(assignment: Tensor, labels: Tensor) -> float:
    """assignment (N,), labels (N,) int64: the cluster and the class of each image."""
    return float(normalized_mutual_info_score(labels.cpu().numpy(), assignment.cpu().numpy()))
