import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import criteria
from criteria.moco import Criterion

D = 6


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def build(size=20, *, temperature=0.1, lr=None):
    criterion = Criterion(size, D, temperature=temperature, lr=lr)
    criterion.enqueue(unit(size, D))
    return criterion


def oldest_first(criterion):
    return criterion.memory_queue.roll(-int(criterion.oldest), 0)


def test_golden(golden, make_opt):
    arrays, _ = golden("criteria")
    queue = arrays["ssl.queue"]
    opt = make_opt("--diva_ssl", "moco", "--embed_dim", 16, "--bs", 32,
                   "--diva_moco_n_key_batches", 5)
    criterion = criteria.select("moco", opt, n_classes=12)
    criterion.enqueue(queue)
    queries = arrays["ssl.query"].clone().requires_grad_()
    loss = criterion(queries, arrays["ssl.key"])
    loss.backward()
    assert loss.item() == pytest.approx(arrays["moco.loss"].item(), rel=1e-4)
    expected = arrays["moco.grad"]
    assert (queries.grad - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("temperature, lr", [(0.1, None), (0.01, None), (0.1, 1.0)])
def test_agrees_with_a_loop(temperature, lr, agree):
    """With a learned temperature its gradient is compared too."""
    criterion, queries, keys = build(temperature=temperature, lr=lr), unit(5, D), unit(5, D)

    def oracle(x, t=temperature):
        total = 0
        for q, k in zip(x, keys.double(), strict=True):
            logits = torch.stack([q @ k, *(q @ m for m in criterion.memory_queue.double())]) / t
            total = total + logits.logsumexp(0) - logits[0]
        return total / len(x)

    assert agree(criterion, oracle, queries, keys) > 0


def test_a_learned_temperature_is_clamped():
    criterion, queries, keys = build(lr=1.0), unit(5, D), unit(5, D)

    def loss_at(t):
        torch.nn.init.constant_(criterion.temperature, t)
        return criterion(queries, keys)

    for outside, bound in ((0, 1e-8), (-1, 1e-8), (1e6, 1e4)):
        assert loss_at(outside).isfinite() and loss_at(outside).equal(loss_at(bound))
    assert not loss_at(1e-2).equal(loss_at(1e-3))


def test_rate_and_queue_size_follow_the_flags(make_opt):
    argv = ["--embed_dim", 16, "--bs", 32, "--diva_moco_n_key_batches", 3]
    fixed = criteria.select("moco", make_opt(*argv), n_classes=2)
    assert fixed.lr is None and not list(fixed.parameters())
    assert fixed.memory_queue.shape == (96, 16)
    opt = make_opt(*argv, "--diva_moco_trainable_temp", "--diva_moco_temp_lr", 0.3,
                   "--diva_moco_temperature", 0.07)
    learned = criteria.select("moco", opt, n_classes=2)
    assert learned.lr == 0.3
    assert [p.item() for p in learned.parameters()] == [pytest.approx(0.07)]


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_queue_is_first_in_first_out(size, pieces):
    """Pieces of any size, also longer than the queue: the last K keys stay, oldest first."""
    criterion = Criterion(size, 1, temperature=1, lr=None)
    keys = torch.arange(1.0, sum(pieces) + 1).unsqueeze(1)
    for piece in keys.split(pieces):
        criterion.enqueue(piece)
    expected = torch.cat([torch.zeros(size, 1), keys])[-size:]
    assert oldest_first(criterion).equal(expected)


def test_a_resumed_queue_goes_on_where_it_stopped():
    one, other = build(20), Criterion(20, D, temperature=0.1, lr=None)
    one.enqueue(unit(7, D))
    other.load_state_dict(one.state_dict())
    keys = unit(16, D)
    one.enqueue(keys)
    other.enqueue(keys)
    assert one.memory_queue.equal(other.memory_queue) and one.oldest.equal(other.oldest)


def test_keys_are_constants_and_may_come_from_inference_mode():
    criterion, queries = build(), unit(5, D).requires_grad_()
    keys = unit(5, D).requires_grad_()
    criterion(queries, keys).backward()
    assert keys.grad is None and queries.grad.any()
    with torch.inference_mode():
        keys = unit(5, D)
    criterion(queries, keys).backward()
    criterion.enqueue(keys)
    assert oldest_first(criterion)[-5:].equal(keys.clone())
    assert not criterion.memory_queue.is_inference()


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("direction", [1, -1, 0])
def test_equal_opposite_and_orthogonal_rows_stay_finite(temperature, direction):
    criterion = build(temperature=temperature)
    queries = (direction * criterion.memory_queue[:2]).clone().requires_grad_()
    loss = criterion(queries, criterion.memory_queue[:2])
    loss.backward()
    assert loss.isfinite() and queries.grad.isfinite().all()


def test_nothing_waits_for_the_device(without_waiting):
    criterion, queries, keys = build(lr=1.0), unit(5, D).requires_grad_(), unit(5, D)
    with without_waiting:
        criterion(queries, keys).backward()
        criterion.enqueue(keys)


@pytest.mark.gpu
def test_nothing_waits_on_a_gpu():
    criterion, queries, keys = build(lr=1.0).cuda(), unit(5, D).cuda(), unit(5, D).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(queries.requires_grad_(), keys).backward()
        criterion.enqueue(keys)
    finally:
        torch.cuda.set_sync_debug_mode("default")
