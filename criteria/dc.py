"""Deep clustering (Caron et al. 2018, arXiv 1807.05520).

    L = mean_i CE(V h_i, z_i)

with trunk features h_i, a linear classifier V without bias, and pseudo-labels z_i: the k-means
cluster of image i's trunk features after PCA. Deviations from the paper, as in the original: PCA
without whitening or normalisation, and batches that are not balanced over clusters.
"""

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria import features
from utilities.clustering import k_means
from utilities.embedding import embed
from utilities.errors import refuse


class Criterion(nn.Module):
    def __init__(self, feature_dim: int, n_samples: int, *, n_clusters: int, pca_dim: int,
                 lr: float):
        """n_samples: number of training images; UserError where it is below n_clusters."""
        super().__init__()
        if n_samples < n_clusters:
            refuse("--diva_dc_ncluster", f"{n_clusters} clusters, but there are only "
                   f"{n_samples} training images",
                   f"2 to {n_samples}")
        self.pca_dim, self.lr = pca_dim, lr
        self.classifier = nn.Linear(feature_dim, n_clusters, bias=False)
        self.register_buffer("pseudo_labels", torch.zeros(n_samples, dtype=torch.int64))
        self.reset_classifier()

    @classmethod
    def from_opt(cls, opt, *, feature_dim, n_samples, **_):
        return cls(feature_dim, n_samples, n_clusters=opt.diva_dc_ncluster, pca_dim=opt.embed_dim,
                   lr=10 * opt.lr)

    def forward(self, trunk: Tensor, indices: Tensor) -> Tensor:
        """trunk (B, feature_dim); indices (B,) int64 rows of the training set -> scalar."""
        return F.cross_entropy(self.classifier(trunk), self.pseudo_labels[indices])

    def update(self, trunks: Tensor) -> None:
        """Clusters the training set's trunk features (n_samples, feature_dim), in dataset order.

        Cluster numbers change their meaning, so the classifier is initialised anew, in place. An
        optimiser's state for it is outdated afterwards.
        """
        assert len(trunks) == len(self.pseudo_labels), trunks.shape
        points = torch.from_numpy(principal_components(trunks.cpu().numpy(), self.pca_dim))
        _, clusters = k_means(points, self.classifier.out_features)
        self.pseudo_labels.copy_(clusters)
        self.reset_classifier()

    def reset_classifier(self) -> None:
        nn.init.normal_(self.classifier.weight, std=1 / self.classifier.in_features)


def principal_components(trunks: np.ndarray, dim: int) -> np.ndarray:
    """(N, F) -> (N, at most dim): the first principal components, without whitening.

    N centred points span N - 1 dimensions; any further component that faiss gives is noise.
    """
    n_points, width = trunks.shape
    pca = faiss.PCAMatrix(width, max(1, min(dim, width, n_points - 1)))
    pca.train(trunks)
    return pca.apply(trunks)


class Feature(features.Feature):
    remedy = "more clusters by --diva_dc_ncluster"

    def __init__(self, name, criterion, *, every: int):
        """every: epochs between two clusterings."""
        super().__init__(name, criterion)
        self.every = every

    @classmethod
    def from_opt(cls, name, opt, *, network, **sizes):
        return cls(name, Criterion.from_opt(opt, **sizes), every=opt.diva_dc_update_f)

    def before_epoch(self, run: features.Run, epoch: int) -> None:
        """Clusters the training images, as training augments them, anew; the optimiser forgets the
        old classifier."""
        if epoch % self.every:
            return
        trunks = embed(run.network, run.training_images, None, epoch=epoch,
                       processes=run.processes)
        run.processes.first(lambda: self.criterion.update(trunks))
        run.processes.from_first(self.criterion)
        for parameter in self.criterion.parameters():
            run.optimiser.state.pop(parameter, None)

    def loss(self, step: features.Step) -> Tensor:
        return self.criterion(step.trunk, step.batch.indices)
