"""A stand-in for pytorch-metric-learning 3, as its documentation describes the parts used here.

Its packages, constructors, tensors and checks are those of the documented interface; formulas are
short, and only a few classes are there. `install` makes a package of this file.
"""

import inspect
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VERSION = "3.0.1"
PACKAGES = {
    "types": ["PairIndices", "TripletIndices"],
    "losses": ["BaseMetricLossFunction", "TripletMarginLoss", "ContrastiveLoss", "ProxyNCALoss",
               "CrossBatchMemory"],
    "miners": ["BaseMiner", "TripletMarginMiner", "MultiSimilarityMiner"],
    "distances": ["LpDistance", "DotProductSimilarity"],
    "reducers": ["AvgNonZeroReducer", "MeanReducer"],
    "regularizers": ["LpRegularizer"],
}


def install(folder: Path) -> None:
    """Writes the package and its version into `folder`, which is to stand on the path."""
    package = folder / "pytorch_metric_learning"
    for name, classes in PACKAGES.items():
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(
            f"from pytorch_metric_learning._all import {', '.join(classes)}, _Hidden\n")
    (package / "__init__.py").touch()
    (package / "_all.py").write_text(Path(__file__).read_text())
    described = folder / f"pytorch_metric_learning-{VERSION}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pytorch-metric-learning\nVersion: {VERSION}\n")


class _Hidden:
    """Nothing of the public interface."""


class PairIndices(NamedTuple):
    pos_anchors: Tensor
    positives: Tensor
    neg_anchors: Tensor
    negatives: Tensor


class TripletIndices(NamedTuple):
    anchors: Tensor
    positives: Tensor
    negatives: Tensor


def checked(indices) -> PairIndices | TripletIndices | None:
    """What a miner returned or the user gave, validated as documented."""
    if indices is None:
        return None
    for rows in indices:
        if not isinstance(rows, Tensor) or rows.dtype not in (torch.int64, torch.int32):
            raise TypeError("indices must be int64 or int32 tensors")
        if rows.ndim != 1:
            raise ValueError("indices must have one dimension")
    if len(indices) not in (3, 4):
        raise ValueError("an index tuple has three or four tensors")
    kind = TripletIndices if len(indices) == 3 else PairIndices
    found = kind(*indices)
    if len(found[0]) != len(found[1]) or len(found[-1]) != len(found[-2 if len(found) == 4 else 0]):
        raise ValueError("anchors and partners differ in number")
    return found


def all_pairs(labels: Tensor, ref_labels: Tensor | None = None) -> PairIndices:
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)
    positives = same.clone()
    if ref_labels is None:
        positives.fill_diagonal_(False)
    return PairIndices(*positives.nonzero(as_tuple=True), *(~same).nonzero(as_tuple=True))


def all_triplets(labels: Tensor) -> TripletIndices:
    same = labels[:, None] == labels
    positives = same.clone().fill_diagonal_(False)
    found = (positives[:, :, None] & ~same[:, None, :]).nonzero(as_tuple=True)
    return TripletIndices(*found)


class LpDistance(nn.Module):
    def __init__(self, *, normalize_embeddings: bool = True, p: float = 2, power: int = 1):
        super().__init__()
        self.normalize_embeddings, self.p, self.power = normalize_embeddings, p, power

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = x if y is None else y
        if self.normalize_embeddings:
            x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        return ((x[:, None] - y).abs().pow(self.p).sum(2) + 1e-12).pow(self.power / self.p)


class DotProductSimilarity(LpDistance):
    def __init__(self, *, normalize_embeddings: bool = False):
        super().__init__(normalize_embeddings=normalize_embeddings)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x @ (x if y is None else y).T


class MeanReducer(nn.Module):
    def forward(self, losses: Tensor) -> Tensor:
        return losses.mean()


class AvgNonZeroReducer(nn.Module):
    def forward(self, losses: Tensor) -> Tensor:
        return losses.sum() / (losses > 0).sum().clamp(min=1)


class LpRegularizer(nn.Module):
    def __init__(self, p: float = 2):
        super().__init__()
        self.p = p

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings.norm(self.p, dim=1).mean()


class BaseMetricLossFunction(nn.Module):
    def __init__(self, *, distance=None, reducer=None, embedding_regularizer=None,
                 embedding_reg_weight: float = 1.0):
        super().__init__()
        self.distance, self.reducer = distance or LpDistance(), reducer or AvgNonZeroReducer()
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight
        self._n_calls = 0

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        if labels is not None and labels.ndim != 1:
            raise ValueError("labels must have one dimension")
        self._n_calls += 1
        terms = self.compute_loss(embeddings, labels, checked(indices_tuple), ref_emb, ref_labels)
        loss = self.reducer(terms) if len(terms) else embeddings.sum() * 0
        if self.embedding_regularizer is not None:
            loss = loss + self.embedding_reg_weight * self.embedding_regularizer(embeddings)
        return loss

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        raise NotImplementedError


class TripletMarginLoss(BaseMetricLossFunction):
    def __init__(self, margin: float = 0.2, **options):
        super().__init__(**options)
        self.margin = margin

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        if isinstance(indices_tuple, PairIndices):
            first, positives, second, negatives = indices_tuple
            p, n = (first[:, None] == second).nonzero(as_tuple=True)
            indices_tuple = TripletIndices(first[p], positives[p], negatives[n])
        a, p, n = all_triplets(labels) if indices_tuple is None else indices_tuple
        d = self.distance(embeddings)
        return F.relu(d[a, p] - d[a, n] + self.margin)


class ContrastiveLoss(BaseMetricLossFunction):
    def __init__(self, pos_margin: float = 0, neg_margin: float = 1, **options):
        super().__init__(**options)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        if isinstance(indices_tuple, TripletIndices):
            a, p, n = indices_tuple
            indices_tuple = PairIndices(a, p, a, n)
        a, p, b, n = all_pairs(labels, ref_labels) if indices_tuple is None else indices_tuple
        d = self.distance(embeddings, ref_emb)
        return torch.cat([F.relu(d[a, p] - self.pos_margin), F.relu(self.neg_margin - d[b, n])])


class ProxyNCALoss(BaseMetricLossFunction):
    def __init__(self, num_classes: int, embedding_size: int, softmax_scale: float = 1, *,
                 weight_regularizer=None, weight_reg_weight: float = 1.0, weight_init_func=None,
                 **options):
        super().__init__(**options)
        self.softmax_scale = softmax_scale
        self.weight = nn.Parameter(torch.randn(num_classes, embedding_size))

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        distances = self.distance(embeddings, self.weight).square()
        return F.cross_entropy(-self.softmax_scale * distances, labels, reduction="none")


class CrossBatchMemory(nn.Module):
    def __init__(self, loss, embedding_size: int, memory_size: int = 1024, miner=None, *,
                 label_dtype=torch.long, label_shape=(), pair_function=None):
        super().__init__()
        self.loss, self.miner, self.memory_size = loss, miner, memory_size
        self.register_buffer("embedding_memory", torch.zeros(memory_size, embedding_size))
        self.register_buffer("label_memory", torch.zeros(memory_size, dtype=label_dtype))
        self.register_buffer("n_enqueued", torch.zeros((), dtype=torch.long))

    def forward(self, embeddings, labels, indices_tuple=None, enqueue_mask=None):
        checked(indices_tuple)
        if len(embeddings) > self.memory_size:
            raise ValueError("more rows than memory_size")
        rows = (self.n_enqueued + torch.arange(len(labels))) % self.memory_size
        self.embedding_memory[rows], self.label_memory[rows] = embeddings.detach(), labels
        self.n_enqueued += len(labels)
        known = int(self.n_enqueued.clamp(max=self.memory_size))
        return self.loss(embeddings, labels, None, self.embedding_memory[:known],
                         self.label_memory[:known])


class BaseMiner(nn.Module):
    def __init__(self, *, distance=None, tuples_per_anchor: int | None = None):
        super().__init__()
        self.distance, self.tuples_per_anchor = distance or LpDistance(), tuples_per_anchor

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        with torch.no_grad():
            return self.mine(self.distance(embeddings), labels)

    def mine(self, distances, labels):
        raise NotImplementedError


class TripletMarginMiner(BaseMiner):
    def __init__(self, margin: float = 0.2, type_of_triplets: str = "all", **options):
        super().__init__(**options)
        self.margin = margin

    def mine(self, distances, labels):
        a, p, n = all_triplets(labels)
        hard = distances[a, n] - distances[a, p] <= self.margin
        return TripletIndices(*(rows[hard].int() for rows in (a, p, n)))


class MultiSimilarityMiner(BaseMiner):
    def __init__(self, epsilon: float = 0.1, **options):
        super().__init__(**options)
        self.epsilon = epsilon

    def mine(self, distances, labels):
        a, p, b, n = all_pairs(labels)
        farthest = torch.full_like(distances, -torch.inf)
        farthest[a, p] = distances[a, p]
        near = distances[b, n] < farthest.amax(1)[b] + self.epsilon
        return PairIndices(a, p, b[near], n[near])


assert all(inspect.isclass(globals()[name]) for names in PACKAGES.values() for name in names)
