"""Recall@k over k-means centroids.

    R@k = 1/N sum_q [one of the k centroids nearest to q carries q's class]

A centroid carries the most frequent class of its members, the lowest one in a tie, counted by
scikit-learn; the centroid of an empty cluster carries none.
"""

import numpy as np
import torch
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

from metrics import recall

TAKES = "centroids"
NONE = torch.iinfo(torch.int64).min     # the label of an empty cluster

# The gallery is the centroids, with the labels that they carry.
depth, scores = recall.depth, recall.scores


def carried_labels(assignment: Tensor, labels: Tensor, k: int) -> Tensor:
    """(k,) int64: the most frequent label of each cluster's members, NONE without members.

    assignment (N,), labels (N,) int64: the cluster, from 0 to k - 1, and the class of each image.
    """
    # How many images each class has in each cluster, both in ascending order, without empty ones.
    counts = contingency_matrix(labels.cpu().numpy(), assignment.cpu().numpy(), sparse=True)
    most = torch.from_numpy(np.asarray(counts.argmax(axis=0)).ravel()).to(labels.device)
    carried = torch.full((k,), NONE, device=labels.device)
    carried[assignment.unique()] = labels.unique()[most]
    return carried
