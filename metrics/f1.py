"""Pairwise F1 of a k-means clustering (Manning, Raghavan, Schuetze 2008, "Introduction to
Information Retrieval", 16.3), counted by scikit-learn.

    F1 = 2 TP / (2 TP + FP + FN)

over pairs of images: TP share class and cluster, FP only the cluster, FN only the class. 0 where no
pair shares anything.
"""

from sklearn.metrics.cluster import pair_confusion_matrix
from torch import Tensor

TAKES = "assignment"


def measure(assignment: Tensor, labels: Tensor) -> float:
    """assignment (N,), labels (N,) int64: the cluster and the class of each image."""
    counts = pair_confusion_matrix(labels.cpu().numpy(), assignment.cpu().numpy())
    _, false_positives, false_negatives, both = map(int, counts.ravel())
    shared = 2 * both + false_positives + false_negatives
    return 2 * both / shared if shared else 0.0
