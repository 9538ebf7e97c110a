"""Recall@k over k-means centroids.

    R@k = 1/N sum_q [one of the k centroids nearest to q carries q's class]

A centroid carries the most frequent class of its members, the lowest one in a tie; the centroid of
an empty cluster carries none.
"""

import torch
from torch import Tensor

from metrics import recall

TAKES = "centroids"
NONE = torch.iinfo(torch.int64).min     # the label of an empty cluster

# The recall of the queries in a gallery of centroids with the labels that they carry.
depth, scores = recall.depth, recall.scores


def carried_labels(assignment: Tensor, labels: Tensor, k: int) -> Tensor:
    """(k,) int64: the most frequent label of each cluster's members, NONE without members.

    assignment (N,), labels (N,) int64: the cluster, from 0 to k - 1, and the class of each image.
    """
    classes, labels = labels.unique(return_inverse=True)
    pairs, count = (assignment * len(classes) + labels).unique(return_counts=True)
    pairs = pairs[count.sort(stable=True, descending=True).indices]
    cluster, order = (pairs // len(classes)).sort(stable=True)
    label = classes[pairs[order] % len(classes)]
    first = cluster.diff(prepend=cluster.new_full((1,), -1)) > 0    # of a cluster's pairs
    carried = torch.full((k,), NONE, device=labels.device)
    carried[cluster[first]] = label[first]
    return carried
