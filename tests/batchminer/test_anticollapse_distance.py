import torch

import batchminer
from batchminer import anticollapse_distance


def test_negatives_agree_with_a_loop_over_all_rows_up_to_the_upper_cutoff(
        batch, check_draws, probability_loop, distance_loop, uniform_members):
    embeddings, labels = batch
    labels = labels.clone()
    labels[0] = 0
    d = distance_loop(embeddings)
    miner = anticollapse_distance.Miner(lower_cutoff=0.8, upper_cutoff=1.5)
    expected = probability_loop(
        embeddings, lambda i: [j for j in range(12) if j != i and d[i][j] <= 1.5], 0.8)
    assert (expected * (labels[:, None] == labels)).sum() > 1      # the anchor's class included
    assert (torch.tensor(d) > 1.5).any()
    check_draws(miner, embeddings, labels, positives=uniform_members(labels), negatives=expected)


def test_an_anchor_with_no_row_within_the_upper_cutoff_is_not_valid():
    """A division by zero in the original."""
    embeddings = torch.eye(4)[[0, 0, 1, 2]]
    miner = anticollapse_distance.Miner(lower_cutoff=0.5, upper_cutoff=1.4)
    assert miner(embeddings, torch.tensor([0, 0, 1, 1])).valid.tolist() == [True, True, False,
                                                                            False]


def test_flags(make_opt):
    miner = batchminer.select("anticollapse_distance", make_opt(
        "--miner_anticollapse_distance_lower_cutoff", 0.6,
        "--miner_anticollapse_distance_upper_cutoff", 1.3))
    assert (miner.lower_cutoff, miner.upper_cutoff) == (0.6, 1.3)
