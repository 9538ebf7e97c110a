import pytest
import torch
import torch.nn.functional as F

from criteria.margin import Criterion


def oracle(batch, *, margin=0.2, nu=0.0):
    def loss(x, beta):
        total, active, betas = 0.0, 0, 0.0
        for a, p, n, valid in zip(*batch.triplets, strict=True):
            if not valid:
                continue
            b = beta[batch.labels[a]]
            pull = F.relu(((x[a] - x[p]).square().sum() + 1e-8).sqrt() - b + margin)
            push = F.relu(b - ((x[a] - x[n]).square().sum() + 1e-8).sqrt() + margin)
            total, betas = total + pull + push, betas + b
            active += bool(pull > 0 or push > 0)
        return total / max(active, 1) + nu * betas

    return loss


@pytest.mark.parametrize("nu", [0.0, 0.3])
def test_agrees_with_a_loop(batch, fixed, agree, nu):
    criterion = Criterion(fixed(batch.triplets), 5, margin=0.2, beta=1.2, nu=nu, lr=1e-3)
    with torch.no_grad():
        criterion.beta.copy_(torch.linspace(0.6, 1.6, 5))
    assert agree(criterion, oracle(batch, nu=nu), batch.unit, batch.labels) > 0


def test_divides_by_active_triplets_not_by_active_terms(fixed):
    """One triplet with both terms active counts once."""
    from batchminer import Triplets

    rows = torch.tensor([0])
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    miner = fixed(Triplets(rows, rows + 1, rows + 2, torch.tensor([True])))
    criterion = Criterion(miner, 2, margin=0.2, beta=1.0)
    assert criterion(x, torch.tensor([0, 0, 1])).item() == pytest.approx(0.4, rel=1e-5)


def test_beta_is_that_of_the_anchors_true_class(fixed):
    from batchminer import Triplets

    rows = torch.tensor([0])
    miner = fixed(Triplets(rows, rows + 1, rows + 2, torch.tensor([True])))
    criterion = Criterion(miner, 3, margin=0.2, beta=1.2)
    criterion(torch.eye(3), torch.tensor([2, 0, 1])).backward()
    assert criterion.beta.grad.nonzero().flatten().tolist() == [2]


def test_constant_beta_learns_nothing(batch, fixed):
    criterion = Criterion(fixed(batch.triplets), 5, margin=0.2, beta=1.2, constant_beta=True,
                          lr=1e-3)
    assert not list(criterion.parameters()) and criterion.lr is None
    assert criterion.state_dict()["beta"].tolist() == pytest.approx([1.2] * 5)
    learned = Criterion(fixed(batch.triplets), 5, margin=0.2, beta=1.2, lr=1e-3)
    assert learned.lr == 1e-3 and learned.beta.requires_grad
    assert criterion(batch.unit, batch.labels).equal(learned(batch.unit, batch.labels).detach())


def test_options_reach_the_criterion(make_opt, fixed, batch):
    opt = make_opt("--loss", "margin", "--loss_margin_margin", 0.1, "--loss_margin_beta", 0.8,
                   "--loss_margin_nu", 0.5, "--loss_margin_beta_lr", 0.01)
    criterion = Criterion.from_opt(opt, n_classes=5, batchminer=fixed(batch.triplets))
    assert (criterion.margin, criterion.nu, criterion.lr) == (0.1, 0.5, 0.01)
    assert criterion.beta.tolist() == pytest.approx([0.8] * 5)
