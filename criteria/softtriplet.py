"""SoftTriple (Qian et al. 2019, arXiv 1909.05235).

    S_ic = sum_k softmax_k(x_i.w_ck / gamma) x_i.w_ck
    L = mean_i CE(lambda (S_ic - delta [c = y_i]), y_i)
        + tau sum_c sum_{k<l} sqrt(2 - 2 w_ck.w_cl) / (C K (K - 1))

with K unit centroids w_ck for each of C classes. The second line merges centroids that a class does
not need. As in the authors' code, 2.00001 replaces the 2 under the root, whose gradient so stays
finite.

The original (`--loss_softtriplet_original`) departs from the paper: the (D, C K) matrix of
centroids is divided by its norm over centroids instead of over dimensions, the inner softmax runs
over classes instead of over the centroids of a class, its argument is multiplied by gamma instead
of divided, and embeddings are not normalised.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.geometry import unit


class Criterion(nn.Module):
    def __init__(self, n_classes: int, embed_dim: int, *, n_centroids: int, margin: float,
                 gamma: float, scale: float, regularisation: float, original: bool, lr: float):
        """margin: the paper's delta; scale: lambda; regularisation: tau."""
        super().__init__()
        self.n_classes, self.n_centroids = n_classes, n_centroids
        self.margin, self.gamma, self.scale = margin, gamma, scale
        self.regularisation, self.original, self.lr = regularisation, original, lr
        self.centroids = nn.Parameter(torch.empty(embed_dim, n_classes * n_centroids))
        bound = (n_classes * n_centroids) ** -0.5
        nn.init.uniform_(self.centroids, -bound, bound)

    @classmethod
    def from_opt(cls, opt, *, n_classes, **_):
        return cls(n_classes, opt.embed_dim, n_centroids=opt.loss_softtriplet_n_centroids,
                   margin=opt.loss_softtriplet_margin_delta, gamma=opt.loss_softtriplet_gamma,
                   scale=opt.loss_softtriplet_lambda,
                   regularisation=opt.loss_softtriplet_reg_weight,
                   original=opt.loss_softtriplet_original, lr=opt.loss_softtriplet_lr)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D); labels (B,) int64 on the same device -> scalar."""
        if self.original:
            centroids = unit(self.centroids, dim=1)
        else:
            centroids = unit(self.centroids, dim=0)
            embeddings = unit(embeddings)
        similarities = (embeddings @ centroids).unflatten(1, (self.n_classes, self.n_centroids))
        if self.original:
            weights = F.softmax(similarities * self.gamma, dim=1)
        else:
            weights = F.softmax(similarities / self.gamma, dim=2)
        scores = (weights * similarities).sum(2)                                # (B, C)
        is_label = labels.unsqueeze(1) == torch.arange(self.n_classes, device=labels.device)
        logits = self.scale * (scores - self.margin * is_label)
        return F.cross_entropy(logits, labels) + self.merging(centroids)

    def merging(self, centroids: Tensor) -> Tensor | float:
        """The regulariser on normalised centroids (D, C K); 0 with one centroid for each class."""
        if self.n_centroids == 1:
            return 0.0
        grouped = centroids.T.unflatten(0, (self.n_classes, self.n_centroids))  # (C, K, D)
        squared = 2.00001 - 2 * grouped @ grouped.transpose(1, 2)
        pairs = torch.ones_like(squared[0]).triu(1)
        # The original's centroids can be longer than 1, and the root's argument then negative.
        total = (squared.clamp(min=1e-5).sqrt() * pairs).sum()
        ordered_pairs = self.n_classes * self.n_centroids * (self.n_centroids - 1)
        return self.regularisation * total / ordered_pairs
