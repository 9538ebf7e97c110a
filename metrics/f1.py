"""Pairwise F1 of a k-means clustering (Manning, Raghavan, Schuetze 2008, "Introduction to
Information Retrieval", 16.3).

    F1 = 2 TP / (2 TP + FP + FN)

over pairs of images: TP share class and cluster, FP only the cluster, FN only the class. 0 where no
pair shares anything. Counted from the contingency table's non-zero entries.
"""

from metrics import base
from metrics.clusters import contingency


class Metric(base.Metric):
    requires = ("target_labels", "computed_cluster_labels")

    def measure(self, split) -> float:
        both, same_class, same_cluster = (
            int((count * (count - 1)).sum())
            for count in contingency(split.labels, split.clusters[1]))
        return 2 * both / (same_class + same_cluster) if same_class + same_cluster else 0.0
