"""Embeddings in two dimensions, for a map of images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("pca", "tsne")
START = 1e-4    # standard deviation of the first coordinate where t-SNE begins


def project(points: Tensor, method: str) -> np.ndarray:
    """points (N, D) -> (N, 2) float32, the same for the same points.

    pca: the coordinates along the two directions of largest variance, each direction with a
    positive largest entry. tsne: t-SNE (van der Maaten and Hinton 2008) by scikit-learn, which
    begins with these; fewer than four points, or points that are all equal, get PCA alone.
    """
    assert method in METHODS, method
    points = points.detach().double().cpu()
    centred = points - points.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    flat = centred @ (directions * largest.sign())
    flat = F.pad(flat, (0, 2 - flat.shape[1])).float().numpy()
    spread = flat[:, 0].std()
    if method == "pca" or len(points) < 4 or spread == 0:
        return flat
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init=flat / spread * START, random_state=0).fit_transform(
        points.float().numpy())
