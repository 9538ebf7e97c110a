import sys

import pytest
import torch

import batchminer
from utilities.errors import UserError

pml = pytest.importorskip("pytorch_metric_learning")


@pytest.fixture
def select(make_opt):
    def build(name, arguments="{}"):
        opt = make_opt("--batch_mining", f"pml:{name}", "--pml_miner_args", arguments)
        return batchminer.select(opt.batch_mining, opt)

    return build


def test_a_triplet_miner_answers_as_the_library_does(select, batch):
    from pytorch_metric_learning.miners import TripletMarginMiner

    embeddings, labels = batch
    miner = select("TripletMarginMiner", '{"margin": 0.4, "type_of_triplets": "semihard"}')
    assert (miner.name, miner.tuples) == ("pml:TripletMarginMiner", "triplets")
    expected = TripletMarginMiner(margin=0.4, type_of_triplets="semihard")(embeddings, labels)
    found = miner(embeddings, labels)
    assert isinstance(found, batchminer.Triplets) and found.valid.all() and len(found.valid) > 1
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, miner.raw(embeddings, labels), expected))


def test_pairs_become_all_triplets_of_an_anchor(select, batch):
    embeddings, labels = batch
    miner = select("MultiSimilarityMiner", '{"epsilon": 0.2}')
    raw = miner.raw(embeddings, labels)
    a1, p, a2, n = (rows.tolist() for rows in raw)
    expected = {(a, b, d) for a, b in zip(a1, p, strict=True)
                for c, d in zip(a2, n, strict=True) if a == c}
    found = miner(embeddings, labels)
    assert found.valid.all() and len(found.valid) == len(expected) > 10
    assert set(zip(*(rows.tolist() for rows in found[:3]), strict=True)) == expected


@pytest.mark.parametrize("name", [
    "AngularMiner", "BatchEasyHardMiner", "BatchHardMiner", "DistanceWeightedMiner", "HDCMiner",
    "MultiSimilarityMiner", "PairMarginMiner", "TripletMarginMiner", "UniformHistogramMiner"])
def test_every_miner_of_the_library_fits(select, batch, name):
    """Also where it mines nothing."""
    embeddings, labels = batch
    miner = select(name)
    a, p, n, valid = miner(embeddings.requires_grad_(), labels)
    assert a.dtype == p.dtype == n.dtype == torch.int64 and valid.dtype == torch.bool
    assert (labels[a] == labels[p])[valid].all() and (labels[a] != labels[n])[valid].all()


def test_nothing_mined_is_one_triplet_that_is_not_valid(select):
    embeddings, labels = torch.eye(4), torch.arange(4)
    for name in ("TripletMarginMiner", "MultiSimilarityMiner"):
        triplets = select(name)(embeddings, labels)
        assert [rows.tolist() for rows in triplets] == [[0], [0], [0], [False]]


def test_arguments_may_be_objects_of_the_library(select):
    miner = select("TripletMarginMiner", '{"distance": {"pml:LpDistance": {"power": 2}}}').miner
    assert type(miner.distance).__name__ == "LpDistance" and miner.distance.power == 2


def test_building_draws_nothing_from_the_runs_generator(select):
    state = torch.get_rng_state()
    select("DistanceWeightedMiner")
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name, arguments, message", [
    ("TripletMarginMinr", "{}", r"^--batch_mining: unknown 'pml:TripletMarginMinr' \(did you mean "
                                r"'pml:TripletMarginMiner'\?\); accepted: pml:AngularMiner, "),
    ("TripletMarginMiner", '{"margn": 1}', r"^--pml_miner_args: .*'margn'.*'margin'"),
    ("BatchEasyHardMiner", '{"pos_strategy": "no"}', r"^--pml_miner_args: .*pos_strategy"),
    ("BaseMiner", "{}", r"^--batch_mining: pml:BaseMiner cannot mine .*accepted"),
])
def test_what_does_not_fit_is_refused_in_one_line(select, name, arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        select(name, arguments)
    assert "\n" not in str(raised.value)


def test_a_missing_library_is_named_with_how_to_install_it(select, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.delitem(sys.modules, "pytorch_metric_learning.miners", raising=False)
    with pytest.raises(UserError, match=r'^--batch_mining: .*"pytorch-metric-learning>=2\.7,<4"$'):
        select("TripletMarginMiner")
