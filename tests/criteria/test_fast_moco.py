import math

import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria import moco
from criteria.fast_moco import Criterion


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


DANCES = ("released", "fixed", "weighted")


def build(queue, *, dance="released", temperature=0.1, lr=None, cutoffs=(0.5, 1.4)):
    criterion = Criterion(*queue.shape, temperature=temperature, lr=lr, lower_cutoff=cutoffs[0],
                          upper_cutoff=cutoffs[1], dance=dance)
    criterion.enqueue(queue)
    return criterion


def naive_weights(queries, queue, dance, lower=0.5, upper=1.4):
    """By loops, in fp64, from the formulas for the density and its inverse, with the sum 1."""
    n, dim = queue.shape
    per_query = dance != "released"
    log_w = torch.zeros(len(queries), n, dtype=torch.float64)
    far = torch.zeros(len(queries), n, dtype=torch.bool)
    for i, q in enumerate(queries.double()):
        for j, m in enumerate(queue.double()):
            d = max(math.sqrt(max(0, 2 - 2 * (q @ m).item())), lower)
            log_w[i, j] = (2 - dim) * math.log(d) + (3 - dim) / 2 * math.log(1 - d * d / 4)
            far[i, j] = d > upper
    largest = [row.max() if per_query else log_w.max() for row in log_w]
    w = torch.zeros_like(log_w)
    for i in range(len(queries)):
        for j in range(n):
            w[i, j] = 0 if far[i, j] else math.exp(log_w[i, j] - largest[i])
            w[i, j] = max(w[i, j], 1e-45)
    sums = w.sum(1, keepdim=True) if per_query else w.sum(0)
    return w / sums


def weights_of(criterion, queries):
    return criterion.weights(queries @ criterion.memory_queue.T)


@pytest.mark.parametrize("case, flags, tolerance", [
    ("fast_moco", [], 1e-4),
    ("fast_moco_fixed", ["--diva_fixed"], 1e-4),
    ("fast_moco_fixed", ["--diva_dance", "fixed"], 1e-4),
    ("fast_moco", ["--diva_dance", "released"], 1e-4),
    ("fast_moco_t01", ["--diva_fixed", "--diva_moco_temperature", 0.01], 1e-3),
    ("fast_moco_trainable", ["--diva_moco_trainable_temp"], 1e-4),
    ("fast_moco_far", [], 1e-4),
    ("fast_moco_far_fixed", ["--diva_fixed"], 1e-4),
])
def test_golden(case, flags, tolerance, golden, make_opt):
    arrays, details = golden("criteria")
    source = details["cases"][case]["input"]
    queue = arrays[f"{source}.queue"][:details["cases"][case].get("queue_rows")]
    opt = make_opt("--embed_dim", 16, "--bs", 16, "--diva_moco_n_key_batches", len(queue) // 16,
                   *flags)
    criterion = criteria.select("fast_moco", opt, n_classes=12)
    criterion.enqueue(queue)
    queries = arrays[f"{source}.query"].clone().requires_grad_()
    loss = criterion(queries, arrays[f"{source}.key"])
    loss.backward()
    assert loss.item() == pytest.approx(arrays[f"{case}.loss"].item(), rel=tolerance)
    expected = arrays[f"{case}.grad"]
    assert (queries.grad - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("dance", DANCES)
@pytest.mark.parametrize("temperature, lr", [(0.1, None), (0.01, None), (0.1, 1.0)])
def test_agrees_with_a_loop(dance, temperature, lr, agree):
    """No gradient flows through the weights, one flows to a learned temperature."""
    queries, keys, queue = unit(5, 8), unit(5, 8), unit(20, 8)
    w = naive_weights(queries, queue, dance)

    def oracle(x, t=temperature):
        total = 0
        for i, q in enumerate(x):
            positive = (q @ keys[i].double()) / t
            similarities = [(q @ m) / t for m in queue.double()]
            if dance == "weighted":
                negatives = sum(20 * w[i, j] * s.exp() for j, s in enumerate(similarities))
            else:
                negatives = sum((w[i, j] * s).exp() for j, s in enumerate(similarities))
            total = total + (positive.exp() + negatives).log() - positive
        return total / len(x)

    criterion = build(queue, dance=dance, temperature=temperature, lr=lr)
    assert agree(criterion, oracle, queries, keys) > 0


def test_weights_that_are_all_equal_make_weighted_plain_moco():
    """All keys lie beyond the upper cutoff, or below the lower one."""
    queries = F.normalize(torch.eye(4, 16) + 3 * torch.eye(16)[10], dim=1)
    far = F.normalize(-torch.eye(10, 16) - 0.3 * torch.eye(16)[10], dim=1)
    plain = moco.Criterion(10, 16, temperature=0.1, lr=None)
    for queue, cutoffs in ((far, (0.5, 1.4)), (unit(10, 16), (2.0, 3.0))):
        plain.enqueue(queue)
        losses = []
        for criterion in (plain, build(queue, dance="weighted", cutoffs=cutoffs)):
            x = queries.clone().requires_grad_()
            loss = criterion(x, queue[:4])
            losses.append((loss.detach(), *torch.autograd.grad(loss, x)))
        for one, other in zip(*losses, strict=True):
            torch.testing.assert_close(one, other)


def test_at_the_published_temperature_weighted_teaches_where_the_other_forms_do_not():
    """All images lie in a cone, as after some training, and each key near its query."""
    centre = unit(1, 128)
    queries, queue = (F.normalize(centre + 0.6 * unit(n, 128), dim=1) for n in (32, 320))
    keys = F.normalize(queries + 0.4 * unit(32, 128), dim=1)
    norms = {}
    for dance in DANCES:
        x = queries.clone().requires_grad_()
        build(queue, dance=dance, temperature=0.01)(x, keys).backward()
        norms[dance] = x.grad.norm().item()
    assert norms["weighted"] > 50 * max(norms["released"], norms["fixed"])


@pytest.mark.parametrize("dance", DANCES)
@pytest.mark.parametrize("dim", [8, 128])
@pytest.mark.parametrize("cutoffs", [(0.5, 1.4), (0.1, 1.0), (1.0, 1.9)])
def test_weights_agree_with_a_loop(dance, dim, cutoffs):
    """Queue entries at all distances from the queries, as training brings them about."""
    queries, queue = unit(6, dim), unit(30, dim)
    queue[:20] = F.normalize(queue[:20] + torch.linspace(-3, 3, 20)[:, None] * queries[0], dim=1)
    criterion = build(queue, dance=dance, cutoffs=cutoffs)
    expected = naive_weights(queries, queue, dance, *cutoffs).float()
    torch.testing.assert_close(weights_of(criterion, queries), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dance", DANCES)
def test_small_weights_agree_with_a_loop_too(dance):
    """In logarithms, as far as 1e-30: w times its logit still counts at small temperatures."""
    queries, queue = unit(6, 128), unit(40, 128)
    queue[:20] = F.normalize(queue[:20] + torch.linspace(0, 3, 20)[:, None] * queries[0], dim=1)
    expected = naive_weights(queries, queue, dance)
    counted = expected > 1e-30
    found = weights_of(build(queue, dance=dance), queries).double()
    assert (expected[counted] < 1e-12).any()
    torch.testing.assert_close(found[counted].log(), expected[counted].log(), atol=1e-3, rtol=1e-3)


def test_as_released_the_weights_of_a_queue_entry_sum_to_1_over_the_queries():
    weights = weights_of(build(unit(20, 8)), unit(5, 8))
    torch.testing.assert_close(weights.sum(0), torch.ones(20))
    assert (weights.sum(1) - 1).abs().max() > 0.1


def test_with_diva_fixed_the_weights_of_a_query_sum_to_1_over_the_queue():
    weights = weights_of(build(unit(20, 8), dance="fixed"), unit(5, 8))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))


def test_as_released_one_maximum_serves_all_queries():
    """With D = 512 the far entries' weights lie below 1e-45 of the nearest's, so they are equal
    for all queries; a maximum for each query or entry would tell the queries apart."""
    queries = torch.eye(3, 512)
    queue = torch.stack([F.normalize(queries[0] + 0.3 * queries[1], dim=0), queries[1] * 0.02
                         + math.sqrt(1 - 0.02**2) * torch.eye(512)[10]])
    weights = weights_of(build(queue, cutoffs=(0.1, 1.9)), queries)
    assert weights[0, 0] > 0.99
    torch.testing.assert_close(weights[:, 1], torch.full((3,), 1 / 3))


def test_the_maximum_is_taken_before_far_entries_become_zero():
    """1/q also grows towards d = 2: an entry opposite to the query, itself beyond the cutoff,
    leaves all others below the floor."""
    query = torch.eye(1, 128)
    queue = torch.cat([unit(9, 128), -query])
    weights = weights_of(build(queue, dance="fixed"), query)
    torch.testing.assert_close(weights, torch.full((1, 10), 0.1))


@pytest.mark.parametrize("dance", DANCES)
@pytest.mark.parametrize("flush", [False, True])
def test_weights_that_would_sum_over_nothing_are_equal_even_where_subnormals_flush(dance, flush):
    """1e-45 is a subnormal fp32 number: flushed to zero it would give 0 / 0."""
    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        queries = F.normalize(torch.eye(4, 16) + 3 * torch.eye(16)[10], dim=1)
        queue = F.normalize(-torch.eye(10, 16) - 0.3 * torch.eye(16)[10], dim=1)
        criterion = build(queue, dance=dance)
        weights = weights_of(criterion, queries)
        assert ((2 - 2 * queries @ queue.T).sqrt() > 1.4).all()
        equal = 0.25 if dance == "released" else 0.1
        torch.testing.assert_close(weights, torch.full((4, 10), equal))
        queries.requires_grad_()
        loss = criterion(queries, unit(4, 16))
        loss.backward()
        assert loss.isfinite() and queries.grad.isfinite().all()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("dance", DANCES)
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("dim", [8, 512])
@pytest.mark.parametrize("direction", [1, -1, 0, 10, -10])
def test_equal_opposite_and_long_queries_stay_finite(dance, temperature, dim, direction):
    queue = unit(20, dim)
    criterion = build(queue, dance=dance, temperature=temperature)
    queries = (direction * queue[[0, 0]]).requires_grad_()
    loss = criterion(queries, queue[:2])
    loss.backward()
    assert loss.isfinite() and queries.grad.isfinite().all()


@pytest.mark.parametrize("dance", DANCES)
def test_nothing_waits_for_the_device(dance, without_waiting):
    criterion = build(unit(20, 8), dance=dance, lr=1.0)
    with without_waiting:
        criterion(unit(5, 8).requires_grad_(), unit(5, 8)).backward()


@pytest.mark.gpu
@pytest.mark.parametrize("dance", DANCES)
def test_nothing_waits_on_a_gpu(dance):
    criterion = build(unit(20, 8), dance=dance, lr=1.0).cuda()
    queries, keys = unit(5, 8).cuda().requires_grad_(), unit(5, 8).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(queries, keys).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
