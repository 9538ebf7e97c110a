import pytest
import torch
import torch.nn.functional as F

from criteria.snr import Criterion


def oracle(batch, *, margin=0.2, reg_lambda=0.005):
    def variance(v):
        return (v - v.mean()).square().sum() / (len(v) - 1)

    def loss(x, beta=None):
        total, active, sums = 0.0, 0, []
        for a, p, n, valid in zip(*batch.triplets, strict=True):
            if not valid:
                continue
            pos = variance(x[a] - x[p]) / variance(x[a])
            neg = variance(x[a] - x[n]) / variance(x[a])
            if beta is None:
                term = F.relu(pos - neg + margin)
            else:
                b = beta[batch.labels[a]]
                term = F.relu(pos - b + margin) + F.relu(b - neg + margin)
            total, active = total + term, active + bool(term > 0)
            sums.append(x[a].sum().abs())
        return total / active + reg_lambda * sum(sums) / len(sums)

    return loss


def test_agrees_with_a_loop(batch, fixed, agree):
    criterion = Criterion(fixed(batch.triplets), 5, margin=0.2, reg_lambda=0.005)
    assert criterion.lr is None
    assert agree(criterion, oracle(batch), batch.raw, batch.labels) > 0


def test_learned_margins_agree_with_a_loop(batch, fixed, agree):
    criterion = Criterion(fixed(batch.triplets), 5, margin=0.2, reg_lambda=0.005, beta=1.5, lr=0.1)
    with torch.no_grad():
        criterion.beta.copy_(torch.linspace(0.5, 3, 5))
    assert criterion.lr == 0.1
    assert agree(criterion, oracle(batch), batch.raw, batch.labels) > 0


@pytest.mark.parametrize("miner, reg_lambda", [
    ("distance", 0), ("random_distance", 0), ("shared_neg_distance", 0),
    ("shared_full_distance", 0), ("random", 0.3), ("semihard", 0.3), ("intra_random", 0.3)])
def test_regulariser_is_off_with_distance_weighted_miners(make_opt, fixed, batch, miner,
                                                          reg_lambda):
    opt = make_opt("--loss", "snr", "--loss_snr_reg_lambda", 0.3, "--loss_snr_beta", 0.7,
                   "--loss_snr_beta_lr", 0.02)
    mined = fixed(batch.triplets)
    mined.name = miner
    criterion = Criterion.from_opt(opt, n_classes=5, batchminer=mined)
    assert criterion.reg_lambda == reg_lambda and criterion.lr == 0.02
    assert criterion.beta.tolist() == pytest.approx([0.7] * 5)
