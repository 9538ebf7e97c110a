import pytest
import torch

import batchminer
from batchminer import semihard, softhard
from utilities.geometry import distances


def test_draws_agree_with_a_loop(batch, distance_loop, check_draws):
    embeddings, labels = batch
    d, rows = distance_loop(embeddings), range(12)
    expected_p, expected_n = torch.zeros(2, 12, 12).unbind()
    fallbacks = 0
    for i in rows:
        positives = [j for j in rows if labels[j] == labels[i] and j != i]
        negatives = [j for j in rows if labels[j] != labels[i]]
        for p in positives:
            chosen = [n for n in negatives if d[i][p] < d[i][n] < d[i][p] + 0.3]
            fallbacks += not chosen
            chosen = chosen or negatives
            expected_p[i, p] = 1 / len(positives)
            for n in chosen:
                expected_n[i, n] += 1 / len(positives) / len(chosen)
    assert 0 < fallbacks < 18  # both rules are seen
    check_draws(semihard.Miner(margin=0.3), embeddings, labels, positives=expected_p,
                negatives=expected_n)


def on_a_line(*places):
    return torch.tensor([[x, 0.0] for x in places])


def test_semihard_negatives_lie_beyond_the_positive_within_the_margin():
    """The original draws from those closer than the farthest positive: rows 2 and 3 here."""
    embeddings, labels = on_a_line(0, 1, 0.5, 0.9, 1.1, 1.3), torch.tensor([0, 0, 1, 2, 3, 4])
    for _ in range(30):
        assert semihard.Miner(margin=0.2)(embeddings, labels).negatives[0] == 4
        assert softhard.Miner()(embeddings, labels).negatives[0] in (2, 3)


def test_a_negative_on_the_edge_of_the_margin_is_not_semihard():
    """Places and the margin are binary fractions: d_an = d_ap + m to the bit, in row 4, and
    d_an = d_ap in row 2."""
    embeddings, labels = on_a_line(0, 1, -1, 1.25, 1.5), torch.tensor([0, 0, 1, 2, 3])
    d = distances(embeddings, embeddings)
    assert d[0, 4] == d[0, 1] + 0.5 and d[0, 2] == d[0, 1]
    for _ in range(30):
        assert semihard.Miner(margin=0.5)(embeddings, labels).negatives[0] == 3


def test_any_negative_where_none_is_semihard():
    embeddings, labels = on_a_line(0, 1, 0.5, 3), torch.tensor([0, 0, 1, 1])
    drawn = {int(semihard.Miner(margin=0.2)(embeddings, labels).negatives[0]) for _ in range(40)}
    assert drawn == {2, 3}


@pytest.mark.parametrize("argv, margin", [
    ([], 0.2),
    (["--loss_margin_margin", 0.35], 0.35),
    (["--loss", "triplet", "--loss_triplet_margin", 0.4], 0.4),
    (["--loss", "snr", "--loss_snr_margin", 0.05], 0.05),
    (["--loss", "contrastive", "--loss_contrastive_neg_margin", 3], 0.2),
    (["--loss", "quadruplet", "--loss_quadruplet_margin_alpha_1", 0.6], 0.6),
    (["--loss", "pml:TripletMarginLoss", "--pml_loss_args", '{"margin": 0.15}'], 0.15),
    (["--loss", "pml:TripletMarginLoss"], 0.2),
    (["--loss", "pml:MarginLoss", "--pml_loss_args", '{"margin": true}'], 0.2),
    (["--loss", "pml:MarginLoss", "--pml_loss_args", '{"margin": "wide"}'], 0.2),
])
def test_the_margin_is_the_losses_own(make_opt, argv, margin):
    miner = batchminer.select("semihard", make_opt("--batch_mining", "semihard", *argv))
    assert miner.margin == margin
