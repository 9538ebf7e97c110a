"""Recall@k over k-means centroids.

    R@k = 1/N sum_q [one of the k centroids nearest to q carries q's class]

A centroid carries the commonest class of its members, of several the lowest; an empty cluster's
carries none.
"""

import torch

from metrics import base, neighbours


class Metric(base.Metric):
    requires = ("features", "target_labels", "centroids", "computed_cluster_labels")

    def measure(self, split) -> float:
        centroids, assignment = split.clusters
        carried = _majority(split.labels, assignment, len(centroids))
        hits = 0
        for rows, nearest in neighbours.search(split.queries, centroids,
                                               min(self.argument, len(centroids))):
            hits += (carried[nearest] == split.query_labels[rows, None]).any(1).sum()
        return float(hits) / len(split.queries)


def _majority(labels: torch.Tensor, clusters: torch.Tensor, k: int) -> torch.Tensor:
    """(k,) int64: the commonest label of each cluster's members, the smallest int64 without any."""
    classes, labels = labels.unique(return_inverse=True)
    pairs, count = (clusters * len(classes) + labels).unique(return_counts=True)
    pairs = pairs[count.sort(stable=True, descending=True).indices]
    cluster, order = (pairs // len(classes)).sort(stable=True)
    label = classes[pairs[order] % len(classes)]
    first = cluster.diff(prepend=cluster.new_full((1,), -1)) > 0    # of a cluster's pairs
    carried = torch.full((k,), torch.iinfo(torch.int64).min, device=labels.device)
    carried[cluster[first]] = label[first]
    return carried
