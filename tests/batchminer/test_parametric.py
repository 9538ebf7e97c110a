import pytest
import torch

import batchminer
from batchminer import parametric

EDGES = [0.1 + 1.7 * k / 9 for k in range(10)]
IN_RANGE = {"uniform": range(9), "hards": (0, 1), "semihards": (1, 2), "veryhards": (0,)}


def near_and_far():
    """24 rows of two classes, at all distances of the support and outside of it."""
    angles = torch.cat([torch.zeros(4), torch.linspace(0.02, 3.1, 20)])
    return torch.stack([angles.cos(), angles.sin()], 1), (torch.arange(24) > 3).long()


@pytest.mark.parametrize("mode", list(IN_RANGE))
def test_draws_agree_with_a_loop(mode, distance_loop, check_draws):
    embeddings, labels = near_and_far()
    d = distance_loop(embeddings)
    expected = torch.zeros(len(labels), len(labels))
    for i in range(len(labels)):
        negatives = [j for j in range(len(labels)) if labels[j] != labels[i]]
        bins = [[j for j in negatives if EDGES[k] <= d[i][j] < EDGES[k + 1]] for k in range(9)]
        populated = [k for k in range(9) if bins[k]]
        chosen = [k for k in populated if k in IN_RANGE[mode]] or populated
        for k in chosen:
            expected[i, bins[k]] = 1 / len(chosen) / len(bins[k])
        if not chosen:
            expected[i, negatives] = 1 / len(negatives)
    check_draws(parametric.Miner(mode=mode, n_support=10, support_lim=(0.1, 1.8)), embeddings,
                labels, negatives=expected)


@pytest.mark.parametrize("mode", list(IN_RANGE))
def test_any_negative_where_none_is_on_the_support(mode, check_draws):
    embeddings, labels = torch.zeros(6, 3), torch.tensor([0, 0, 1, 1, 1, 1])
    miner = parametric.Miner(mode=mode, n_support=10, support_lim=(0.1, 1.8))
    different = (labels[:, None] != labels).float()
    check_draws(miner, embeddings, labels, n=500,
                negatives=different / different.sum(1, keepdim=True))


def test_flags(make_opt):
    miner = batchminer.select("parametric", make_opt(
        "--batch_mining", "parametric", "--miner_parametric_mode", "semihards",
        "--miner_parametric_n_support", 5, "--miner_parametric_support_lim", 0.2, 1.6))
    assert (miner.mode, miner.n_bins, list(miner.support_lim)) == ("semihards", 4, [0.2, 1.6])
