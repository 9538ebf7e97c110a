import copy
import inspect
import json
import sys

import pytest
import torch
import torch.nn.functional as F

import batchminer
import criteria
from batchminer import Pairs, Sets, Triplets
from criteria.guest import indices_tuple
from tests import runs
from utilities.errors import UserError

pml = pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402

D, CLASSES = 8, 6
LABELS = torch.arange(16) // 4


@pytest.fixture
def select(make_opt):
    def select(name, arguments=None, *argv, miner=None, n_classes=CLASSES):
        given = ["--pml_loss_args", json.dumps(arguments)] if arguments else []
        opt = make_opt("--loss", f"pml:{name}", "--embed_dim", D, "--bs", 16,
                       "--samples_per_class", 4, *given, *argv)
        mined = batchminer.select(miner, opt) if isinstance(miner, str) else miner
        return criteria.select(opt.loss, opt, n_classes=n_classes, batchminer=mined)

    return select


@pytest.fixture
def x():
    return F.normalize(torch.randn(16, D), dim=1).requires_grad_()


@pytest.mark.parametrize("name, arguments", [
    ("ContrastiveLoss", {}), ("MultiSimilarityLoss", {"alpha": 3}), ("NTXentLoss", {}),
    ("TripletMarginLoss", {"margin": 0.4}), ("CircleLoss", {"m": 0.3, "gamma": 40})])
def test_gives_what_the_library_gives(select, x, name, arguments):
    expected = getattr(losses, name)(**arguments)(x, LABELS)
    assert select(name, arguments)(x, LABELS).equal(expected)


def test_arguments_hold_objects_of_the_library(select, x):
    criterion = select("TripletMarginLoss", {
        "distance": {"pml:LpDistance": {"power": 2, "normalize_embeddings": False}},
        "reducer": "pml:MeanReducer", "margin": 0.3})
    expected = losses.TripletMarginLoss(
        margin=0.3, reducer=reducers.MeanReducer(),
        distance=distances.LpDistance(power=2, normalize_embeddings=False))
    assert criterion(x, LABELS).equal(expected(x, LABELS))


@pytest.mark.parametrize("name, shape", [
    ("ProxyAnchorLoss", (CLASSES, D)), ("ArcFaceLoss", (D, CLASSES)),
    ("SubCenterArcFaceLoss", (D, 3 * CLASSES)), ("P2SGradLoss", (D, CLASSES)),
    ("SoftTripleLoss", (D, 10 * CLASSES))])
def test_classes_and_width_are_filled_in_and_parameters_learn(select, x, name, shape):
    criterion = select(name)
    parameter, = criterion.parameters()
    assert parameter.shape == shape and criterion.lr == 5e-4
    criterion(x, LABELS).backward()
    assert parameter.grad.isfinite().all() and parameter.grad.any() and x.grad.any()


def test_what_the_user_says_of_classes_and_width_stands(select):
    parameter, = select("ProxyAnchorLoss", {"num_classes": 9}).parameters()
    assert parameter.shape == (9, D)
    assert not list(select("MarginLoss", {"num_classes": None}).parameters())


def test_fewer_classes_than_a_batch_could_hold_are_no_mistake(select):
    """The labels that the loss is tried on are among the classes."""
    parameter, = select("ArcFaceLoss", n_classes=2).parameters()
    assert parameter.shape == (D, 2)


def test_margins_per_class(select):
    criterion = select("MarginLoss", {"learn_beta": True, "lr": 0.01})
    assert [p.shape for p in criterion.parameters()] == [(CLASSES,)] and criterion.lr == 0.01
    assert select("MarginLoss").lr is None


@pytest.mark.parametrize("miner", ["distance", "npair", "lifted", "intra_random"])
def test_our_miners_choose_the_pairs(select, x, miner):
    criterion = select("ContrastiveLoss", {}, "--batch_mining", miner, miner=miner)
    torch.manual_seed(3)
    loss = criterion(x, LABELS)
    torch.manual_seed(3)
    found = criterion.batchminer(x, LABELS)
    expected = losses.ContrastiveLoss()(x, LABELS, indices_tuple(criterion.batchminer.tuples,
                                                                 found))
    assert loss.equal(expected)
    assert miner == "lifted" or not loss.equal(losses.ContrastiveLoss()(x, LABELS))


@pytest.mark.parametrize("miner", ["MultiSimilarityMiner", "TripletMarginMiner"])
def test_the_librarys_miners_choose_the_pairs(select, x, miner):
    criterion = select("ContrastiveLoss", {}, "--batch_mining", f"pml:{miner}",
                       miner=f"pml:{miner}")
    expected = losses.ContrastiveLoss()(x, LABELS, getattr(miners, miner)()(x, LABELS))
    assert criterion(x, LABELS).equal(expected)
    assert not expected.equal(losses.ContrastiveLoss()(x, LABELS))


def test_only_valid_tuples_count(batch):
    """As sets of index tuples, against loops."""
    def rows(*tensors):
        return set(zip(*(t.tolist() for t in tensors), strict=True))

    a, p, n, valid = batch.triplets
    assert rows(*indices_tuple("triplets", batch.triplets)) == {
        (int(a[t]), int(p[t]), int(n[t])) for t in range(16) if valid[t]}
    a, p, negatives, valid = batch.pairs
    a1, p1, a2, n2 = indices_tuple("npairs", batch.pairs)
    assert rows(a1, p1) == {(int(a[t]), int(p[t])) for t in range(16) if valid[t]}
    assert rows(a2, n2) == {(int(a[t]), j) for t in range(16) for j in range(16)
                            if valid[t] and negatives[t, j]}
    positives, negatives, valid = batch.sets
    a1, p1, a2, n2 = indices_tuple("sets", batch.sets)
    assert rows(a1, p1) == {(i, j) for i in range(16) for j in range(16)
                            if valid[i] and positives[i, j]}
    assert rows(a2, n2) == {(i, j) for i in range(16) for j in range(16)
                            if valid[i] and negatives[i, j]}


@pytest.mark.parametrize("name", ["ContrastiveLoss", "TripletMarginLoss", "MultiSimilarityLoss",
                                  "NTXentLoss", "MarginLoss"])
@pytest.mark.parametrize("kind", [Triplets, Pairs, Sets])
def test_nothing_valid_is_a_zero_with_a_gradient(select, fixed, x, name, kind):
    rows, masks, valid = torch.arange(16), torch.ones(16, 16).bool(), torch.zeros(16).bool()
    found = {Triplets: Triplets(rows, rows, rows, valid), Pairs: Pairs(rows, rows, masks, valid),
             Sets: Sets(masks, masks, valid)}[kind]
    criterion = select(name)
    criterion.batchminer = fixed(found)
    loss = criterion(x, LABELS)
    loss.backward()
    assert loss == 0 and not x.grad.any()


@pytest.mark.parametrize("name, arguments", [
    ("CrossBatchMemory", {"loss": "pml:ContrastiveLoss", "memory_size": 40}),
    ("DynamicSoftMarginLoss", {})])
def test_what_a_guest_remembers_is_in_its_state(select, x, name, arguments):
    """Queues and histograms survive a checkpoint, and no step reaches into the one before. The
    batches before are narrower than x, so that remembering them changes the loss of x clearly."""
    criterion, resumed = select(name, arguments), select(name, arguments)
    for _ in range(3):
        narrow = F.normalize(1 + 0.1 * torch.randn(16, D), dim=1)
        criterion(narrow.requires_grad_(), LABELS).backward()
    resumed.load_state_dict(copy.deepcopy(criterion.state_dict()))
    fresh = select(name, arguments)
    value = criterion(x, LABELS)
    torch.testing.assert_close(resumed(x, LABELS), value)
    assert (fresh(x, LABELS) - value).abs() > 0.01 * value.abs()


# What the constructor of each needs; the others need nothing, or fit no batch of labels.
ARGUMENTS = {"CrossBatchMemory": {"loss": "pml:ContrastiveLoss", "memory_size": 40},
             "MultipleLosses": {"losses": ["pml:ContrastiveLoss", "pml:TupletMarginLoss"]},
             "RankedListLoss": {"margin": 0.4, "Tn": 10}}
UNFIT = {"BaseLossWrapper", "BaseMetricLossFunction", "GenericPairLoss", "ManifoldLoss",
         "SelfSupervisedLoss", "VICRegLoss"}
GUESTS = [name for name, value in vars(losses).items() if inspect.isclass(value)
          and not name.endswith("Mixin") and name not in UNFIT]


@pytest.mark.parametrize("name", GUESTS)
def test_the_state_of_every_guest_loads_without_running_code(select, x, name, tmp_path):
    """Some keep their margin as a NumPy number, which torch.load(weights_only=True) refuses."""
    criterion, resumed = (
        select(name, ARGUMENTS.get(name), "--data_sampler", "class_random_unique")
        for _ in range(2))
    criterion(x, LABELS)
    torch.save(criterion.state_dict(), tmp_path / "state")
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    one, other = (dict(runs.leaves(c.state_dict(), "")) for c in (criterion, resumed))
    assert one.keys() == other.keys() and len(one) > 5
    assert all(runs.same(value, other[key]) for key, value in one.items())


def test_what_is_restored_goes_to_the_device_of_what_it_replaces(select, x):
    """Or to the criterion's, where there is nothing yet."""
    for name, remembered in (("DynamicSoftMarginLoss", "hist_"),
                             ("CrossBatchMemory", "curr_batch_idx")):
        criterion, resumed = (select(name, ARGUMENTS.get(name)) for _ in range(2))
        criterion(x, LABELS)
        if name == "DynamicSoftMarginLoss":
            resumed.loss.hist_ = resumed.loss.hist_.to("meta")
        resumed.to("meta").set_extra_state(criterion.get_extra_state())
        assert getattr(criterion.loss, remembered).device.type == "cpu"
        assert getattr(resumed.loss, remembered).device.type == "meta"


def test_trying_the_loss_leaves_its_memory_as_it_was(select):
    queue = select("CrossBatchMemory", ARGUMENTS["CrossBatchMemory"]).loss
    assert queue.queue_idx == 0 and not queue.embedding_memory.any()


def test_choosing_the_guest_draws_no_random_numbers(select):
    before = torch.get_rng_state()
    select("ContrastiveLoss")
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("name, arguments, message", [
    ("ContrastivLoss", {}, r"--loss: unknown 'pml:ContrastivLoss' \(did you mean "
                           r"'pml:ContrastiveLoss'\?\); accepted: pml:AngularLoss, "),
    ("ContrastiveLoss", {"margin": 1}, r"--pml_loss_args: pml:ContrastiveLoss: unknown 'margin'"
                                       r".*accepted: pos_margin, neg_margin, "),
    ("ContrastiveLoss", {"lr": 1}, r"--pml_loss_args: lr 1, but pml:ContrastiveLoss .* nothing"),
    ("ProxyAnchorLoss", {"lr": float("nan")}, r"--pml_loss_args: lr nan; accepted: a number"),
    ("ProxyAnchorLoss", {"lr": "1"}, r"--pml_loss_args: lr '1'; accepted: a number"),
    ("ContrastiveLoss", {"reducer": "pml:MeanReduce"},
     r"--pml_loss_args: unknown 'pml:MeanReduce' \(did you mean 'pml:MeanReducer'"),
    ("ContrastiveLoss", {"distance": {"pml:LpDistance": 2}},
     r"--pml_loss_args: 2 for pml:LpDistance; accepted: a JSON object"),
    ("ProxyNCALoss", {"num_classes": 1},
     r"--pml_loss_args: num_classes 1, but 6 classes train; accepted: num_classes of at least 6, "
     r"or arguments without it$"),
    ("ArcFaceLoss", {"num_classes": 5}, r"--pml_loss_args: num_classes 5, but 6 classes train"),
    ("ProxyNCALoss", {"num_classes": "6"}, r"--pml_loss_args: pml:ProxyNCALoss with "),
    ("ProxyNCALoss", {"num_classes": 0}, r"--pml_loss_args: "),
    ("RankedListLoss", {}, r"--pml_loss_args: pml:RankedListLoss with {}: .*'margin' and 'Tn'"),
    ("ContrastiveLoss", {"pos_margin": "far"}, r"--loss: pml:ContrastiveLoss cannot be computed"),
    ("VICRegLoss", {}, r"--loss: pml:VICRegLoss cannot be computed from embeddings and labels"),
    ("CrossBatchMemory", {"loss": "pml:ContrastiveLoss", "memory_size": 10},
     r"--loss: pml:CrossBatchMemory cannot be computed from embeddings and labels")])
def test_what_does_not_fit_is_refused_in_one_line(select, name, arguments, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        select(name, arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv, n_classes, message", [
    ((), 6, r" of a batch with a class drawn twice: All .* --data_sampler class_random_unique$"),
    (("--data_sampler", "random"), 20, r" of a batch with a class drawn twice: .*"),
    (("--data_sampler", "rrandom"), 20, r": .*, or --data_sampler class_random_unique$"),
    (("--data_sampler", "class_random_unique"), 3,
     r": All .*, or --data_sampler class_random_unique --bs 12$")])
def test_a_loss_is_tried_on_every_kind_of_batch_that_the_sampler_draws(
        select, argv, n_classes, message):
    """This one needs classes of equal size."""
    with pytest.raises(UserError, match="^--loss: pml:SmoothAPLoss cannot be computed from "
                                        "embeddings and labels" + message):
        select("SmoothAPLoss", {}, *argv, n_classes=n_classes)
    select("SmoothAPLoss", {}, "--data_sampler", "class_random_unique")


def test_a_loss_that_is_nan_without_positives_is_refused_where_there_may_be_none(select):
    with pytest.raises(UserError, match=r"^--loss: pml:NCALoss cannot be computed .* it is nan; "):
        select("NCALoss", {}, "--data_sampler", "random", n_classes=100)
    select("NCALoss", {}, "--data_sampler", "rrandom", n_classes=100)


ONE_EACH = ("--samples_per_class", 1)
ALL = ("--samples_per_class", 16)


@pytest.mark.parametrize("name", ["ContrastiveLoss", "NTXentLoss", "MarginLoss", "NCALoss"])
@pytest.mark.parametrize("argv, flag", [(ONE_EACH, "--samples_per_class: 1"), (ALL, "--bs: 16")])
def test_a_loss_on_pairs_needs_batches_with_pairs(select, name, argv, flag):
    arguments = {"learn_beta": True} if name == "MarginLoss" else {}
    with pytest.raises(UserError, match=f"^{flag} given, but .*--loss pml:{name} compares"):
        select(name, arguments, *argv)


@pytest.mark.parametrize("name", ["ProxyAnchorLoss", "ArcFaceLoss", "CrossBatchMemory"])
@pytest.mark.parametrize("argv", [ONE_EACH, ALL])
def test_a_loss_with_vectors_of_its_own_needs_none_unless_tuples_are_mined(select, x, name, argv):
    assert select(name, ARGUMENTS.get(name), *argv)(x, LABELS) != 0
    with pytest.raises(UserError, match=r"given, but .*--loss pml:.* compares"):
        select(name, ARGUMENTS.get(name), *argv, "--batch_mining", "distance", miner="distance")


def test_a_missing_library_is_named(select, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(UserError, match=r"^--loss: 'pml:ContrastiveLoss' needs .* "
                                        r'pip install "pytorch-metric-learning>=2\.7,<4"$'):
        select("ContrastiveLoss")


@pytest.mark.parametrize("version", ["2.6.1", "4.0.0", "4.1.0.dev1", "10.2"])
def test_a_version_with_another_interface_is_refused(select, monkeypatch, version):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    with pytest.raises(UserError, match=(
            rf"^--loss: 'pml:ContrastiveLoss' given, but pytorch-metric-learning {version} is "
            r'installed; accepted: .*\(pip install "pytorch-metric-learning>=2\.7,<4"\)$')):
        select("ContrastiveLoss")


@pytest.mark.parametrize("version", ["2.7.0", "2.9.0", "2.10.0", "3.0.0rc1", "3.1"])
def test_supported_versions_are_not_refused(select, x, monkeypatch, version):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert select("ContrastiveLoss")(x, LABELS).isfinite()


@pytest.mark.parametrize("name", ["TripletMarginLoss", "ContrastiveLoss", "MarginLoss"])
def test_losses_on_tuples_can_teach_shared_and_intra(select, x, name):
    argv = ["--diva_features", "discriminative", "shared", "intra"]
    for miner in ("random_distance", "shared_neg_distance", "intra_random"):
        assert select(name, {}, *argv, miner=miner)(x, LABELS).isfinite()


@pytest.mark.parametrize("name", ["ArcFaceLoss", "ProxyAnchorLoss", "NCALoss"])
@pytest.mark.parametrize("feature, miner", [("shared", "random_distance"),
                                            ("intra", "intra_random")])
@pytest.mark.parametrize("mining", [[], ["--batch_mining", "random_distance"]])
def test_losses_that_only_weigh_rows_cannot(select, name, feature, miner, mining):
    """The library turns tuples into weights of single rows for them. Also where the user mines the
    main loss's tuples as the feature's are."""
    with pytest.raises(UserError, match=r"^--diva_features: .* does not compare the rows"):
        select(name, {}, "--diva_features", "discriminative", feature, *mining, miner=miner)


@pytest.mark.parametrize("miner", ["distance", "random_distance"])
def test_the_main_loss_may_weigh_rows_by_tuples(select, x, miner):
    assert select("NCALoss", {}, "--batch_mining", miner, miner=miner)(x, LABELS).isfinite()


def test_a_loss_that_takes_no_tuples_refuses_a_miner(select):
    with pytest.raises(UserError, match=r"^--loss: pml:P2SGradLoss cannot be computed .* mined by"):
        select("P2SGradLoss", {}, "--batch_mining", "distance", miner="distance")


def test_a_loss_that_refuses_a_features_tuples_does_so_at_the_start(select):
    """Members of `intra` are drawn with replacement: one row may be positive and negative."""
    with pytest.raises(UserError, match=r"^--loss: pml:MultiSimilarityLoss .* by 'intra_random'"):
        select("MultiSimilarityLoss", {}, miner="intra_random")
