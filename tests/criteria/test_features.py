import copy

import pytest
import torch
from torch import nn

import criteria
from criteria import features, selfsimilarity
from datasets import Batch

B, D, CLASSES, SAMPLES = 8, 6, 4, 20


class Network(nn.Module):
    """images (B, 3, 2, 2) -> heads and trunk, with a BatchNorm whose statistics move."""

    feature_dim = 5

    def __init__(self, names):
        super().__init__()
        self.body = nn.Linear(12, self.feature_dim)
        self.norm = nn.BatchNorm1d(self.feature_dim)
        self.heads = nn.ModuleDict({name: nn.Linear(self.feature_dim, D) for name in names})

    def trunk(self, images):
        return self.norm(self.body(images.flatten(1)))

    def forward(self, images):
        trunk = self.trunk(images)
        return {name: nn.functional.normalize(head(trunk), dim=1)
                for name, head in self.heads.items()}, trunk


class Loader:
    """Keeps the batches that it gives, in each epoch one of each size."""

    def __init__(self, *sizes):
        self.sizes, self.epochs, self.given = sizes, [], []
        self.dataset = range(sum(sizes))

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch):
        self.epochs.append(epoch)
        for size in self.sizes:
            self.given.append(batch(size))
            yield self.given[-1]


def batch(n=B):
    return Batch(labels=torch.arange(n) // 2, images=torch.randn(n, 3, 2, 2),
                 indices=torch.randperm(SAMPLES)[:n], second_views=torch.randn(n, 3, 2, 2),
                 rotations=torch.arange(n) % 4, rotated_views=torch.randn(n, 3, 2, 2))


@pytest.fixture
def assemble(make_opt):
    def assemble(*names, argv=()):
        opt = make_opt("--diva_features", *names, "--bs", B, "--embed_dim", D,
                       "--diva_moco_n_key_batches", 3, "--diva_dc_ncluster", 5, *argv)
        network = Network(names)
        return network, features.assemble(opt, network=network, n_classes=CLASSES,
                                          n_samples=SAMPLES)

    return assemble


def run_of(network, training, images=None):
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    return features.Run(network, training, images, optimiser)


def test_every_feature_name_of_the_command_line_is_assembled(assemble):
    import parameters

    assert parameters.FLAGS["diva_features"].accepts == criteria.FEATURES
    network, objective = assemble(*criteria.FEATURES)
    step = features.forward(network, objective, batch())
    assert [feature.name for feature in objective] == list(criteria.FEATURES)
    for feature in objective:
        loss = feature.loss(step)
        assert loss.shape == () and loss.isfinite()


def test_what_parts_need_is_explained():
    assert set().union(*(part.needs for part in criteria.PARTS.values())) == set(criteria.MEANING)
    with pytest.raises(AssertionError):
        criteria.needs(["imrot"], "second veiw")


@pytest.mark.parametrize("names", [("discriminative", "shared"),
                                   *((name,) for name in criteria.FEATURES)])
def test_what_a_feature_needs_of_the_batch_is_all_that_it_reads(assemble, names):
    """The other views are missing, as where the training set does not make them."""
    network, objective = assemble(*names)
    full = batch()
    data = full._replace(
        second_views=full.second_views if criteria.needs(names, "second view") else None,
        rotated_views=full.rotated_views if criteria.needs(names, "rotated view") else None)
    step = features.forward(network, objective, data)
    assert ("rotated_views" in step.further_views) == criteria.needs(names, "rotated view")
    for feature in objective:
        feature.loss(step).backward(retain_graph=True)
    for name, head in network.heads.items():
        assert (head.weight.grad is None) == criteria.needs([name], "trunk alone"), name


def test_a_view_that_no_line_of_the_table_asks_for_is_named(assemble):
    network, objective = assemble("imrot")
    with pytest.raises(AssertionError, match="rotated_views"):
        features.forward(network, objective, batch()._replace(rotated_views=None))


def test_no_loss_calls_a_network(assemble):
    network, objective = assemble(*criteria.FEATURES)
    step = features.forward(network, objective, batch())

    def refuse(*_):
        raise AssertionError("a network is called")

    for part in (network, *(f.key_network for f in objective if hasattr(f, "key_network"))):
        part.register_forward_pre_hook(refuse)
    for feature in objective:
        assert feature.loss(step).isfinite()
    with pytest.raises(AssertionError, match="is called"):
        features.forward(network, objective, batch())


def test_keys_are_constants_of_the_second_view(assemble):
    network, objective = assemble("selfsimilarity")
    data = batch()
    keys = features.forward(network, objective, data).keys["selfsimilarity"]
    assert not keys.requires_grad
    with torch.no_grad():
        expected = objective[0].key_network(data.second_views)[0]["selfsimilarity"]
    torch.testing.assert_close(keys.clone(), expected)


def test_the_formula_shows_weights_and_decorrelations(assemble):
    _, objective = assemble("discriminative", "selfsimilarity", "shared", "intra", argv=[
        "--diva_alpha_ssl", 0.2, "--diva_alpha_shared", 0.4, "--diva_alpha_intra", 0.6,
        "--diva_rho_decorrelation", 100])
    assert features.formula(objective) == (
        "L = L_discriminative + 0.2 L_selfsimilarity + 0.4 L_shared + 0.6 L_intra"
        " + 100 c(selfsimilarity -> discriminative) + 100 c(shared -> discriminative)"
        " + 100 c(intra -> discriminative)")


def test_the_formula_says_that_nothing_is_decorrelated(assemble):
    _, objective = assemble("discriminative", "shared")
    assert features.formula(objective) == "L = L_discriminative + 0.3 L_shared  (no decorrelation)"


def test_features_of_one_loss_own_separate_parameters(assemble):
    _, objective = assemble("discriminative", "shared", "intra")
    betas = [feature.criterion.beta for feature in objective]
    assert len({id(beta) for beta in betas}) == 3
    assert [group["weight_decay"] for f in objective for group in f.parameter_groups()] == [0] * 3


ENSEMBLE = ("discriminative", "ensemble_1", "ensemble_2", "ensemble_3")


def test_ensemble_heads_are_taught_like_discriminative_each_by_its_own_criterion(assemble):
    network, objective = assemble(*ENSEMBLE, argv=["--batch_mining", "semihard"])
    assert features.formula(objective) == (
        "L = L_discriminative + L_ensemble_1 + L_ensemble_2 + L_ensemble_3  (no decorrelation)")
    assert {feature.criterion.batchminer.name for feature in objective} == {"semihard"}
    step = features.forward(network, objective, batch())
    for feature in objective:
        torch.manual_seed(3)
        expected = copy.deepcopy(feature.criterion)(step.embeddings[feature.name],
                                                    step.batch.labels)
        torch.manual_seed(3)
        assert feature.loss(step).equal(expected)
    sum(feature.loss(step) for feature in objective).backward()
    assert len({id(f.criterion.beta) for f in objective}) == len(ENSEMBLE)
    for name in ENSEMBLE:
        assert network.heads[name].weight.grad.any()


def test_ensemble_heads_draw_tuples_and_proxies_of_their_own(assemble):
    """Of equal embeddings each gets other tuples, in the one random stream of a step."""
    _, objective = assemble(*ENSEMBLE)
    same = nn.functional.normalize(torch.randn(B, D), dim=1)
    step = features.Step(batch(), dict.fromkeys(ENSEMBLE, same), None, {}, {})
    mined = [feature.criterion.batchminer(same, step.batch.labels)[2].tolist()
             for feature in objective]
    assert len(set(map(tuple, mined))) == len(ENSEMBLE)
    _, objective = assemble(*ENSEMBLE, argv=["--loss", "proxynca"])
    assert len({feature.loss(step).item() for feature in objective}) == len(ENSEMBLE)


def test_an_ensemble_can_be_decorrelated(assemble):
    _, objective = assemble(*ENSEMBLE[:2], argv=["--diva_decorrelations",
                                                 "ensemble_1-discriminative"])
    assert features.formula(objective) == (
        "L = L_discriminative + L_ensemble_1 + 1500 c(ensemble_1 -> discriminative)")


def test_the_key_network_starts_as_a_copy_and_follows_by_momentum(assemble):
    network, objective = assemble("selfsimilarity", argv=["--diva_moco_momentum", 0.75])
    feature, = objective
    before = copy.deepcopy(feature.key_network)
    for own, query in zip(before.parameters(), network.parameters(), strict=True):
        assert torch.equal(own, query)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    step = features.forward(network, objective, batch())
    feature.loss(step)
    feature.after_step(step, network)
    for new, old, query in zip(feature.key_network.parameters(), before.parameters(),
                               network.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
        assert not new.requires_grad


@pytest.mark.parametrize("change", [
    lambda network: network, lambda network: network.double().float(),
    lambda network: network.load_state_dict(Network(["selfsimilarity"]).state_dict())])
@pytest.mark.parametrize("whose", ["both", "network", "key_network"])
def test_the_key_network_follows_tensors_that_were_moved_or_loaded_between_steps(
        assemble, change, whose):
    network, objective = assemble("selfsimilarity", argv=["--diva_moco_momentum", 0.75])
    feature, = objective
    step = features.Step(None, {}, None, {}, {"selfsimilarity": torch.ones(B, D)})
    feature.after_step(step, network)
    for part in {"both": (network, feature.key_network), "network": (network,),
                 "key_network": (feature.key_network,)}[whose]:
        with torch.no_grad():
            change(part)
    network.train()(torch.randn(B, 3, 2, 2))
    with torch.no_grad():
        network.body.weight.add_(1)
    before = copy.deepcopy(feature.key_network)
    feature.after_step(step, network)
    for new, old, query in zip(feature.key_network.parameters(), before.parameters(),
                               network.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
    for (name, new), query in zip(feature.key_network.named_buffers(), network.buffers(),
                                  strict=True):
        assert new.equal(query) and not new.equal(before.get_buffer(name)), name


def test_the_key_network_is_in_evaluation_mode_from_the_start(assemble):
    network, objective = assemble("selfsimilarity")
    key_network = objective[0].key_network
    assert network.training and not any(module.training for module in key_network.modules())
    before = copy.deepcopy(key_network.state_dict())
    objective[0].begin(run_of(network, Loader(B, B)))
    assert all(value.equal(before[name]) for name, value in key_network.state_dict().items())


def test_the_temperature_logged_is_the_one_that_the_loss_uses(assemble):
    _, objective = assemble("selfsimilarity", argv=["--diva_moco_trainable_temp"])
    for learned, used in ((-1, 1e-8), (0.3, 0.3), (1e5, 1e4)):
        torch.nn.init.constant_(objective[0].criterion.temperature, learned)
        assert objective[0].scalars(0)["Temp"]["temp"] == pytest.approx(used)


def test_the_key_networks_batchnorm_statistics_are_the_query_networks(assemble):
    """Departs from the original, whose key network keeps the statistics it started with."""
    network, objective = assemble("selfsimilarity")
    feature, = objective
    objective.train()
    assert not any(module.training for module in feature.key_network.modules())
    step = features.forward(network.train(), objective, batch())
    feature.loss(step)
    assert not torch.equal(feature.key_network.norm.running_mean, network.norm.running_mean)
    feature.after_step(step, network)
    assert torch.equal(feature.key_network.norm.running_mean, network.norm.running_mean)
    assert torch.equal(feature.key_network.norm.running_var, network.norm.running_var)


def test_the_queue_is_filled_with_keys_of_main_views_before_training(assemble):
    network, objective = assemble("selfsimilarity")
    loader = Loader(B, B)
    objective[0].begin(run_of(network, loader))
    assert len(loader.given) == 3
    keys = torch.cat([objective[0].embed(data.images) for data in loader.given])
    torch.testing.assert_close(objective[0].criterion.memory_queue, keys)   # the oldest first


def test_the_queue_is_filled_from_epochs_that_training_never_reaches(assemble):
    network, objective = assemble("selfsimilarity")
    loader = Loader(B, B)
    objective[0].begin(run_of(network, loader))
    assert loader.epochs == [selfsimilarity.FILLING, selfsimilarity.FILLING + 1]
    assert selfsimilarity.FILLING > 10**9


def test_a_step_compares_with_the_old_queue_and_then_enqueues_its_keys(assemble):
    network, objective = assemble("selfsimilarity")
    feature, = objective
    feature.begin(run_of(network, Loader(B, B, B)))
    old = feature.criterion.memory_queue.clone()
    data = batch()
    step = features.forward(network, objective, data)
    keys = feature.embed(data.second_views).clone()
    expected = copy.deepcopy(feature.criterion)(step.embeddings["selfsimilarity"], keys)
    torch.testing.assert_close(feature.loss(step), expected)
    assert torch.equal(feature.criterion.memory_queue, old)
    feature.after_step(step, network)
    rows = feature.criterion.memory_queue
    assert all((rows - key).abs().sum(1).min() < 1e-5 for key in keys)


def test_invariantspread_shows_half_of_the_images_in_two_views(assemble):
    """Departs from the original: labels, indices and keys follow the images."""
    _, objective = assemble("invariantspread", "selfsimilarity")
    old = batch()
    new = objective[0].prepare(old)
    half = B // 2
    assert torch.equal(new.images, torch.cat([old.images[:half], old.second_views[:half]]))
    assert torch.equal(new.second_views, torch.cat([old.second_views[:half], old.images[:half]]))
    for name in ("labels", "indices", "rotations", "rotated_views"):
        assert torch.equal(getattr(new, name), torch.cat([getattr(old, name)[:half]] * 2))


def test_invariantspread_learns_from_the_two_halves(assemble):
    network, objective = assemble("invariantspread")
    step = features.forward(network, objective, batch())
    first, second = step.embeddings["invariantspread"].chunk(2)
    expected = objective[0].criterion(first, second)
    torch.testing.assert_close(objective[0].loss(step), expected)


def test_rotation_prediction_sees_the_rotated_view(assemble):
    """Departs from the original, which feeds the trunk of the unrotated view."""
    network, objective = assemble("imrot")
    network.eval()
    data = batch()
    step = features.forward(network, objective, data)
    expected = objective[0].criterion(network.trunk(data.rotated_views), data.rotations)
    torch.testing.assert_close(objective[0].loss(step), expected)
    torch.testing.assert_close(step.trunk, network.trunk(data.images))


def test_a_feature_gets_the_further_views_that_it_declares(assemble):
    """With a gradient, each embedded once however many features ask for it."""
    network, objective = assemble("discriminative", "shared", "imrot")
    data = batch()
    for feature in objective[:2]:
        feature.further_views = ("second_views",)
    step = features.forward(network.eval(), objective, data)
    assert list(step.further_views) == ["second_views", "rotated_views"]
    for view, (embeddings, trunk) in step.further_views.items():
        expected, _ = network(getattr(data, view))
        torch.testing.assert_close(embeddings["shared"], expected["shared"])
        assert embeddings["shared"].requires_grad and trunk.requires_grad


def test_deep_clustering_relabels_every_f_epochs_from_the_first(assemble, monkeypatch):
    network, objective = assemble("dc", argv=["--diva_dc_update_f", 3])
    feature, = objective
    updates = []
    monkeypatch.setattr(feature.criterion, "update", lambda trunks: updates.append(trunks.shape))
    run = run_of(network, None, Loader(B, B, SAMPLES - 2 * B))
    optimiser = torch.optim.Adam(feature.parameters())
    run = run._replace(optimiser=optimiser)
    for epoch in range(7):
        for parameter in feature.parameters():
            optimiser.state[parameter] = {"step": torch.tensor(1.0)}
        feature.before_epoch(run, epoch)
        assert bool(optimiser.state) == bool(epoch % 3)
    assert updates == [(SAMPLES, Network.feature_dim)] * 3
    assert run.training_images.epochs == [0, 3, 6]


@pytest.mark.parametrize("training", [True, False])
def test_deep_clustering_embeds_in_order_and_leaves_the_network_as_it_was(assemble, monkeypatch,
                                                                          training):
    """In evaluation mode: BatchNorm neither uses nor changes statistics of these batches."""
    network, objective = assemble("dc")
    feature, = objective
    found, before = [], copy.deepcopy(network.train(training))
    monkeypatch.setattr(feature.criterion, "update", found.append)
    loader = Loader(B, B, SAMPLES - 2 * B)
    feature.before_epoch(run_of(network, None, loader), 0)
    assert [module.training for module in network.modules()] == [
        module.training for module in before.modules()]
    assert all(value.equal(before.state_dict()[name])
               for name, value in network.state_dict().items())
    images = torch.cat([data.images for data in loader.given])
    torch.testing.assert_close(found[0], before.eval().trunk(images).detach())


def test_shared_and_intra_mine_by_their_own_flags(assemble):
    _, objective = assemble("discriminative", "shared", "intra",
                            argv=["--diva_sharing", "full", "--batch_mining", "semihard"])
    names = [feature.criterion.batchminer.name for feature in objective]
    assert names == ["semihard", "shared_full_distance", "intra_random"]


def test_every_miner_of_sharing_and_intra_exists():
    import batchminer
    import parameters

    assert set(parameters.FLAGS["diva_sharing"].accepts) == set(criteria.SHARING)
    assert set(parameters.FLAGS["diva_intra"].accepts) == set(criteria.INTRA)
    for name in (*criteria.SHARING.values(), *criteria.INTRA.values()):
        assert batchminer.TUPLES[name] == "triplets"


def test_a_loss_that_mines_nothing_gets_no_miner(assemble):
    _, objective = assemble("discriminative", argv=["--loss", "proxynca"])
    assert "proxynca" not in criteria.TAKES
    assert getattr(objective[0].criterion, "batchminer", None) is None
