"""What every registered miner keeps to."""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import batchminer
from parameters import read_arguments
from utilities.errors import UserError

NAMES = list(batchminer.MINERS)
# The labels say nothing of these: permuted labels, three classes, one class.
CROSSING = ("random_distance", "shared_neg_distance", "shared_full_distance", "intra_random")
SWITCHING = ("rho_distance", "anticollapse_cdistance")
ANTICOLLAPSE = ("anticollapse_distance", "anticollapse_semihard")


@pytest.fixture(scope="module")
def miners(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("runs"))
    opt = read_arguments(["--source_path", path, "--save_path", path])
    return {name: batchminer.select(name, opt) for name in NAMES}


@pytest.fixture(params=NAMES)
def miner(request, miners):
    return miners[request.param]


def unit(n, dim=8):
    return torch.nn.functional.normalize(torch.randn(n, dim))


def check_form(miner, found, embeddings):
    """Type, shapes, dtypes, device and range of what a miner returns."""
    size = len(embeddings)
    shapes = {"triplets": {"anchors": (size,), "positives": (size,), "negatives": (size,)},
              "npairs": {"anchors": (size,), "positives": (size,), "negatives": (size, size)},
              "sets": {"positives": (size, size), "negatives": (size, size)}}
    kind = {"triplets": batchminer.Triplets, "npairs": batchminer.Pairs, "sets": batchminer.Sets}
    assert type(found) is kind[miner.tuples]
    assert found.valid.shape == (size,) and found.valid.dtype == torch.bool
    for field, shape in shapes[miner.tuples].items():
        tensor = getattr(found, field)
        assert tensor.shape == shape and tensor.device == embeddings.device, field
        assert tensor.dtype == (torch.bool if len(shape) == 2 else torch.int64), field
        assert not tensor.requires_grad
        if len(shape) == 1 and embeddings.device.type != "meta":
            assert ((tensor >= 0) & (tensor < size)).all(), field


def check_labels(name, found, labels):
    """Which labels the members of valid tuples have."""
    if isinstance(found, batchminer.Sets):
        same = labels[:, None] == labels
        own = torch.eye(len(labels), dtype=torch.bool)
        assert found.positives.equal(same & ~own) and found.negatives.equal(~same)
        return
    a, p, n = (rows[found.valid] for rows in found[:3])
    if isinstance(found, batchminer.Pairs):
        assert n.equal(labels[a][:, None] != labels) and n.any(1).all()
    elif name not in CROSSING + SWITCHING + ANTICOLLAPSE:
        assert (labels[n] != labels[a]).all()
    if name in SWITCHING:
        assert ((labels[n] == labels[a]) == (p == a)).all() and (n != a).all()
    elif name not in CROSSING:
        assert (p != a).all()
    if name not in CROSSING:
        assert (labels[p] == labels[a]).all()
    if name in ANTICOLLAPSE:
        assert (n != a).all()


def test_every_miner_knows_its_name_and_kind(miners):
    for name, miner in miners.items():
        assert (miner.name, miner.tuples) == (name, batchminer.TUPLES[name])


def test_an_unknown_name_is_refused_with_what_exists(make_opt):
    with pytest.raises(UserError, match=r"^--batch_mining: unknown 'distnace'.*distance.*lifted"):
        batchminer.select("distnace", make_opt())


@pytest.mark.parametrize("size", [2, 3, 12, 40])
def test_the_form_follows_from_the_batch_size_alone(miner, size):
    embeddings = unit(size).requires_grad_()
    for labels in (torch.arange(size) // 2, torch.zeros(size, dtype=torch.int64),
                   torch.arange(size), torch.randint(-3, 10**9, (size,))):
        check_form(miner, miner(embeddings, labels), embeddings)


def test_members_have_the_right_labels(miner):
    for classes in (2, 3, 6):
        labels = torch.randperm(24) % classes
        for _ in range(20):
            found = miner(unit(24), labels)
            check_labels(miner.name, found, labels)
            if not (classes == 2 and miner.name.startswith("shared")):
                assert found.valid.all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=10), dim=st.integers(2, 6))
def test_any_labels_give_valid_tuples_where_there_are_some(miner, labels, dim):
    labels = torch.tensor(labels)
    found = miner(unit(len(labels), dim), labels)
    check_labels(miner.name, found, labels)
    same = labels[:, None] == labels
    complete = (same.sum(1) > 1) & ~same.all(1)
    if miner.name in ("semihard", "softhard", "distance", "npair", "lifted",
                      "anticollapse_semihard"):
        assert found.valid.equal(complete)
    elif miner.name in (*SWITCHING, "random"):
        assert found.valid.any() or not complete.any()


ONE, TWO = torch.zeros(1, 16), torch.zeros(1, 16)
ONE[0, 0] = TWO[0, 1] = 1
DEGENERATE = {
    "all rows equal": ONE.expand(8, -1),
    "duplicates of one image": torch.cat([ONE.expand(4, -1), TWO.expand(4, -1)]),
    "opposite": torch.cat([ONE, -ONE]).repeat(4, 1),
    "beyond opposite by rounding": torch.cat([ONE, -1.0001 * ONE]).repeat(4, 1),
    "not normalised": torch.linspace(-1e3, 1e3, 128).reshape(8, 16),
    "zeros": torch.zeros(8, 16),
    "far apart": torch.cat([ONE.expand(4, -1), TWO.expand(4, -1)]) * 1e15,
    "two dimensions": torch.eye(2).repeat(4, 1),
}
LABELS = {
    "pairs": torch.arange(8) // 2,
    "two classes": torch.arange(8) % 2,
    "one class": torch.zeros(8, dtype=torch.int64),
    "all different": torch.arange(8),
    "one pair": torch.arange(8).clamp(min=1),
}


@pytest.mark.parametrize("embeddings", list(DEGENERATE))
def test_degenerate_batches(miner, embeddings):
    embeddings = DEGENERATE[embeddings]
    for labels, size in itertools.product(LABELS.values(), (8, 2)):
        found = miner(embeddings[:size], labels[:size])
        check_form(miner, found, embeddings[:size])
        check_labels(miner.name, found, labels[:size])


INSIDE_A_CLASS = ("intra_random", "anticollapse_distance", *SWITCHING)
ACROSS_CLASSES = ("shared_neg_distance", "shared_full_distance")


@pytest.mark.parametrize("labels, name", [
    *(("one class", name) for name in NAMES if name not in INSIDE_A_CLASS),
    *(("all different", name) for name in NAMES if name not in ACROSS_CLASSES)])
def test_nothing_is_valid_where_nothing_can_be_mined(miners, labels, name):
    for size in (2, 8):
        assert not miners[name](unit(size), LABELS[labels][:size]).valid.any()


def test_mining_records_no_graph(miner):
    embeddings = unit(8).requires_grad_()
    assert not any(rows.requires_grad for rows in miner(embeddings, LABELS["pairs"]))
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(torch.is_grad_enabled())
            return function(*args, **(kwargs or {}))

    with Watch():
        miner(embeddings, LABELS["pairs"])
    assert seen and not any(seen)


def test_nothing_waits_for_the_device(miner, without_waiting):
    with without_waiting:
        miner(unit(12), torch.arange(12) // 3)


@pytest.mark.parametrize("read", [
    lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: x.masked_select(x > 0), lambda x: float(x[0]), lambda x: x.unique(),
    lambda x: torch.multinomial(x.abs(), 1), lambda x: x.cpu(), lambda x: x.tolist(),
])
def test_the_guard_sees_what_waits(read, without_waiting):
    with pytest.raises(AssertionError), without_waiting:
        read(torch.randn(5))


def test_no_value_decides_on_the_host(miner):
    """Tensors on `meta` have a shape and no values: reading one raises."""
    embeddings = torch.empty(12, 8, device="meta")
    check_form(miner, miner(embeddings, torch.empty(12, dtype=torch.int64, device="meta")),
               embeddings)


def test_draws_follow_torchs_generator(miner):
    embeddings, labels = unit(20), torch.arange(20) // 4
    torch.manual_seed(3)
    first, second = miner(embeddings, labels), miner(embeddings, labels)
    torch.manual_seed(3)
    again = miner(embeddings, labels)
    assert all(map(torch.equal, first, again))
    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    miner(embeddings, labels)
    draws = not torch.rand(1).equal(undisturbed)
    assert draws != all(map(torch.equal, first, second))


def test_a_batch_of_a_thousand_needs_little_memory(miner):
    """No miner makes a B x B x B tensor: 1 GB of booleans here."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                largest = max(largest, math.prod(tensor.shape))
            return out

    with Watch():
        miner(torch.empty(1024, 16, device="meta"),
              torch.empty(1024, dtype=torch.int64, device="meta"))
    assert largest <= 9 * 1024**2


@pytest.mark.gpu
def test_miners_run_on_a_gpu_without_waiting(miner):
    embeddings, labels = unit(24).cuda(), (torch.arange(24) // 4).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = miner(embeddings, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_form(miner, found, embeddings)
    check_labels(miner.name, type(found)(*(rows.cpu() for rows in found)), labels.cpu())
