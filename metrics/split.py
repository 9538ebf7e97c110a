"""An evaluated split: its features and labels, and what metrics share: neighbours and clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics import base, clusters, neighbours
from metrics.ranking import Classes, Ranking, from_hits, in_gallery
from utilities.errors import UserError
from utilities.geometry import finite_rows


class Split:
    """features (N, D) and labels (N,), and optionally a gallery (features (M, D), labels (M,)).

    device: where to search and cluster; search: as in `metrics.compute`. The rest is what
    `metrics.base.Metric` describes, as far as it is known; what is not known is found when it is
    first asked for, once.
    """

    def __init__(self, features, labels, *, gallery=None, device=None, search=None,
                 k_closest_classes=None, centroids=None, computed_cluster_labels=None):
        self.device = torch.device(device or "cpu")
        self.queries, self.query_labels = self._points(features), self._integers(labels)
        gallery, gallery_labels = gallery or (None, None)
        self.gallery, self.gallery_labels = self._points(gallery), self._integers(gallery_labels)
        self.search = search or (lambda k: None)
        self.given_neighbours = k_closest_classes
        self.given_clusters = centroids, computed_cluster_labels

    def _points(self, features) -> Tensor | None:
        if features is None:
            return None
        points = torch.as_tensor(features).detach().to(self.device, torch.float32).contiguous()
        finite = finite_rows(points)
        if not finite.all():
            raise UserError(f"{int((~finite).sum())} of {len(points)} embeddings are not finite, "
                            f"the first in row {int(finite.int().argmin())}: cannot measure them")
        return points

    def _integers(self, labels) -> Tensor | None:
        if labels is None:
            return None
        return torch.as_tensor(labels).to(self.device, torch.int64).reshape(-1)

    @cached_property
    def features(self) -> Tensor:
        """Every feature: the queries, then the gallery."""
        return self.queries if self.gallery is None else torch.cat([self.queries, self.gallery])

    @cached_property
    def labels(self) -> Tensor:
        """The labels of `features`."""
        if self.gallery is None:
            return self.query_labels
        return torch.cat([self.query_labels, self.gallery_labels])

    @cached_property
    def clusters(self) -> tuple[Tensor, Tensor]:
        """Centroids (K, D) and the cluster of every row of `features` (N,), for K classes."""
        if self.given_clusters[1] is None:
            return clusters.k_means(self.features, len(self.labels.unique()))
        return self._points(self.given_clusters[0]), self._integers(self.given_clusters[1])

    def normalized(self) -> Split:
        """The split with its features on the unit sphere: itself where they are there already."""
        if ((self.features.norm(dim=1) - 1).abs() < 1e-5).all():
            return self
        gallery = None
        if self.gallery is not None:
            gallery = F.normalize(self.gallery), self.gallery_labels
        return Split(F.normalize(self.queries), self.query_labels, gallery=gallery,
                     device=self.device)

    @torch.no_grad()
    def measure(self, metrics: Iterable[base.Metric]) -> dict[str, float]:
        """{name: value}, in the order of `metrics`."""
        metrics = list(metrics)
        normalized = self.normalized() if any(metric.normalized for metric in metrics) else self
        groups: dict[Split, list[base.Metric]] = {}
        for metric in metrics:
            groups.setdefault(normalized if metric.normalized else self, []).append(metric)
        values = {}
        for split, group in groups.items():
            values |= split.retrieval([m for m in group if isinstance(m, base.Retrieval)])
            values |= {m.name: m.measure(split) for m in group if m.name not in values}
        return {metric.name: values[metric.name] for metric in metrics}

    def retrieval(self, metrics: list[base.Retrieval]) -> dict[str, float]:
        """The values of metrics of neighbours, after one search as deep as any of them needs.

        Those for which no search is deep enough share a pass over whole rankings instead: apart,
        since there images that are equally near count otherwise.
        """
        values = {}
        for group, rankings in self._passes(metrics):
            sums = torch.zeros(2, len(group), dtype=torch.float64, device=self.device)
            for ranking in rankings:
                for column, metric in enumerate(group):
                    counted = metric.counted(ranking)
                    score = metric.score(ranking).where(counted, 0)
                    sums[0, column] += score.sum(dtype=torch.float64)
                    sums[1, column] += counted.sum()
            means = (sums[0] / sums[1].clamp(min=1)).tolist()
            values |= {metric.name: mean for metric, mean in zip(group, means, strict=True)}
        return values

    def _passes(self, metrics: list[base.Retrieval]
                ) -> Iterator[tuple[list[base.Retrieval], Iterator[Ranking]]]:
        """Which of `metrics` share which rankings."""
        if not metrics:
            return
        classes = Classes(self.query_labels, self.gallery_labels)
        if self.given_neighbours is not None:
            yield metrics, self._given(classes)
            return
        largest, n = int(classes.sizes.max()), len(classes.among)
        depths = {metric: min(metric.depth(largest, n), n - classes.among_themselves)
                  for metric in metrics}
        near = [metric for metric in metrics if depths[metric] <= neighbours.MOST_NEIGHBOURS]
        whole = [metric for metric in metrics if metric not in near]
        if near:
            yield near, self._searched(classes, max(depths[metric] for metric in near))
        if whole:
            yield whole, self._counted(classes)

    def _given(self, classes: Classes) -> Iterator[Ranking]:
        hits = self._integers(self.given_neighbours).view(len(self.query_labels), -1)
        hits = hits == self.query_labels[:, None]
        yield classes.ranking(torch.arange(len(hits)), from_hits(hits))

    def _searched(self, classes: Classes, depth: int) -> Iterator[Ranking]:
        blocks = self.search(depth) or neighbours.search(self.queries, self.gallery, depth)
        for rows, found in blocks:
            hits = classes.among[found] == classes.wanted[rows, None]
            yield classes.ranking(rows, from_hits(hits))

    def _counted(self, classes: Classes) -> Iterator[Ranking]:
        for rows, ranks in in_gallery(self.queries, self.gallery, classes):
            yield classes.ranking(rows, ranks)
