"""What every loss of the registry promises, by the table."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import batchminer
import criteria
from utilities.errors import UserError
from utilities.geometry import unit

D, CLASSES = 8, 6
DEFAULT_MINER = {"triplets": "distance", "npairs": "npair", "sets": "lifted", None: None}
FITTING = [(loss, miner) for loss in criteria.LOSSES for miner in (
    [name for name, kind in batchminer.TUPLES.items() if kind == criteria.TAKES[loss]]
    if loss in criteria.TAKES else [None])]
UNFITTING = [(loss, miner) for loss, takes in criteria.TAKES.items()
             for miner, kind in batchminer.TUPLES.items() if kind != takes]


@pytest.fixture
def select(make_opt):
    def select(loss, miner="default", *argv):
        opt = make_opt("--loss", loss, "--embed_dim", D, *argv)
        if miner == "default":
            miner = DEFAULT_MINER[criteria.TAKES.get(loss)]
        return criteria.select(loss, opt, n_classes=CLASSES, feature_dim=10, n_samples=100,
                               batchminer=batchminer.select(miner, opt) if miner else None)

    return select


@pytest.mark.parametrize("loss, miner", FITTING)
def test_scalar_in_fp32_with_a_gradient(select, loss, miner):
    criterion = select(loss, miner)
    labels = torch.arange(18) // 3
    raw = torch.randn(18, D, requires_grad=True)
    value = criterion(F.normalize(raw, dim=1), labels)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and value.isfinite()
    for tensor in (raw, *criterion.parameters()):
        assert tensor.grad.isfinite().all()
    assert value == 0 or raw.grad.abs().sum() > 0


@pytest.mark.parametrize("loss, miner", FITTING)
@pytest.mark.parametrize("scale", [torch.nan, 1e30])
def test_embeddings_that_diverged_show_in_the_loss(select, loss, miner, scale):
    """Without an error, so that the run ends with the step's number and its files."""
    x = scale * torch.randn(18, D)
    if criteria.needs([loss], "unit length"):
        x = unit(x)
    assert not select(loss, miner)(x, torch.arange(18) // 3) < 1e18


@pytest.mark.parametrize("loss, miner", UNFITTING)
def test_a_miner_that_does_not_fit_is_refused(make_opt, loss, miner):
    misfit = SimpleNamespace(name=miner, tuples=batchminer.TUPLES[miner])
    with pytest.raises(UserError, match=rf"^--batch_mining: '{miner}' .*accepted: ") as error:
        criteria.select(loss, make_opt("--loss", loss), n_classes=2, batchminer=misfit)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss, argv", [(loss, ()) for loss in criteria.LOSSES] + [
    ("snr", ("--loss_snr_beta", 0.5)), ("margin", ("--loss_margin_beta_constant",))])
def test_state_and_rate_of_what_is_learned(select, loss, argv):
    criterion, other = select(loss, "default", *argv), select(loss, "default", *argv)
    assert (criterion.lr is not None) == bool(list(criterion.parameters()))
    assert criterion.lr is None or criterion.lr > 0
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.normal_()
    other.load_state_dict(criterion.state_dict())
    x, labels = F.normalize(torch.randn(12, D), dim=1), torch.arange(12) % CLASSES
    torch.manual_seed(1)
    value = criterion(x, labels)
    torch.manual_seed(1)
    assert other(x, labels).equal(value)


def degenerate_batches():
    unit = F.normalize(torch.randn(6, D), dim=1)
    one = unit[:1].expand(6, D)
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None]
    pairs = torch.arange(6) // 2
    return {
        "one class": (unit, torch.zeros(6).long()),
        "all different": (unit, torch.arange(6)),
        "two of one class": (unit[:2], torch.zeros(2).long()),
        "two of two classes": (unit[:2], torch.arange(2)),
        "duplicates": (unit[[0, 0, 1, 1, 2, 2]], pairs),
        "equal": (one, pairs),
        "opposite": (one * signs, pairs),
        "opposite classes": (one * signs, torch.arange(6) % 2),
        "zeros": (torch.zeros(6, D), pairs),
        "long": (1e3 * unit, pairs),
    }


@pytest.mark.parametrize("loss, argv", [(loss, ()) for loss in criteria.LOSSES] + [
    ("snr", ("--loss_snr_beta", 0.5)), ("margin", ("--loss_margin_nu", 0.1))])
@pytest.mark.parametrize("case", degenerate_batches())
def test_degenerate_batches(select, loss, argv, case):
    """No exception, finite value and gradients; zero where there are no two kinds of pairs."""
    criterion = select(loss, "default", *argv)
    x, labels = degenerate_batches()[case]
    x = x.detach().clone().requires_grad_()
    value = criterion(x, labels)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and value.isfinite()
    for tensor in (x, *criterion.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    kinds = labels[:, None] == labels
    nothing_to_learn = kinds.all() or kinds.sum() == len(labels)
    has_proxies = any(parameter.ndim > 1 for parameter in criterion.parameters())
    if nothing_to_learn and not has_proxies:
        assert value == 0 and not x.grad.any()


@pytest.mark.parametrize("loss, miner", FITTING)
def test_nothing_waits_for_the_device(select, loss, miner, without_waiting):
    criterion = select(loss, miner)
    x = F.normalize(torch.randn(12, D), dim=1).requires_grad_()
    labels = torch.arange(12) // 3
    with without_waiting:
        criterion(x, labels).backward()


@pytest.mark.parametrize("operation", [
    lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: float(x[0, 0]), lambda x: x.cpu(),
    lambda x: x.tolist(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: torch.where(x > 0),
    lambda x: x.masked_select(x > 0), lambda x: x.unique(), lambda x: int(x.argmax())])
def test_waiting_would_be_seen(operation, without_waiting):
    with pytest.raises(AssertionError), without_waiting:
        operation(torch.randn(3, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("loss, miner", FITTING)
def test_nothing_waits_on_a_gpu(select, loss, miner):
    criterion = select(loss, miner).cuda()
    x = F.normalize(torch.randn(12, D, device="cuda"), dim=1).requires_grad_()
    labels = torch.arange(12, device="cuda") // 3
    criterion(x, labels).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(x, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_unknown_loss_is_refused_with_what_exists(make_opt):
    with pytest.raises(UserError, match=r"^--loss: unknown 'tripet' \(did you mean 'triplet'\?\)"):
        criteria.select("tripet", make_opt(), n_classes=2)
