import pytest
import torch
import torch.nn.functional as F

import criteria
from criteria.adversarial_separation import Criterion, Feature

PAIRS = ["b-a", "c-a", "c-b"]


def build(pairs=PAIRS, rho=(3.0, 2.0, 0.5)):
    return Criterion(pairs, rho[:len(pairs)], embed_dim=6, hidden_dim=9, lr=1)


def heads(n=5):
    return {name: F.normalize(torch.randn(n, 6), dim=1).requires_grad_() for name in "abcd"}


def naive(embeddings, regressor, pair):
    """c of one pair over loops, without the reversal."""
    source, target = pair.split("-")
    total = 0
    for x, y in zip(embeddings[source], embeddings[target], strict=True):
        r = regressor[2](torch.relu(regressor[0](x / x.norm())))
        for y_d, r_d in zip(y / y.norm(), r / r.norm(), strict=True):
            total = total + (y_d * r_d) ** 2
    return -total / embeddings[source].numel()


def test_golden(golden, make_opt):
    arrays, details = golden("criteria")
    case = details["separation"]
    names = ["discriminative", "selfsimilarity", "shared", "intra"]
    opt = make_opt("--diva_features", *names, "--embed_dim", details["embed_dim"],
                   "--diva_decorrelations", *case["directions"],
                   "--diva_rho_decorrelation", *case["rho"],
                   "--diva_decorrnet_dim", case["decorrnet_dim"])
    criterion = criteria.select("adversarial_separation", opt, n_classes=12)
    order = [f"{pair}.{layer}" for pair in case["directions"]
             for layer in ("0.weight", "0.bias", "2.weight", "2.bias")]
    assert [f"regressors.{name}" for name in order] == list(criterion.state_dict())
    with torch.no_grad():
        for name, parameter in zip(order, criterion.parameters(), strict=True):
            parameter.copy_(arrays[f"separation.{name}"])

    embeddings = {name: arrays[f"separation.{name}"].clone().requires_grad_() for name in names}
    loss = criterion(embeddings)
    loss.backward()
    assert loss.item() == pytest.approx(arrays["separation.loss"].item(), rel=1e-4)
    compared = [(embeddings[name].grad, f"separation.{name}.grad") for name in names]
    compared += [(parameter.grad, f"separation.grad.regressors.{name}")
                 for name, parameter in zip(order, criterion.parameters(), strict=True)]
    for gradient, key in compared:
        assert (gradient - arrays[key]).abs().max() <= 1e-3 * arrays[key].abs().max(), key


def test_agrees_with_a_loop_and_reverses_the_networks_gradients_only():
    criterion, embeddings = build(), heads()
    loss = criterion(embeddings)
    loss.backward()
    actual = [tensor.grad.clone() for tensor in (*criterion.parameters(),
                                                 *(embeddings[n] for n in "abc"))]
    expected = sum(rho * naive(embeddings, criterion.regressors[pair], pair)
                   for pair, rho in zip(PAIRS, (3.0, 2.0, 0.5), strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    tensors = [*criterion.parameters(), *(embeddings[n] for n in "abc")]
    gradients = torch.autograd.grad(expected, tensors)
    for i, (gradient, reference) in enumerate(zip(actual, gradients, strict=True)):
        sign = 1 if i < len(list(criterion.parameters())) else -1
        torch.testing.assert_close(gradient, sign * reference, rtol=1e-3, atol=1e-6)


def test_the_mlp_raises_the_correlation_and_the_network_lowers_it():
    criterion, embeddings = build(), heads()

    def correlation():
        return -criterion.correlations(embeddings).sum()

    before = correlation()
    criterion(embeddings).backward()
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter -= 0.05 * parameter.grad
        taught = correlation()
        for parameter in criterion.parameters():
            parameter += 0.05 * parameter.grad
        for name in "abc":
            embeddings[name] -= 0.05 * embeddings[name].grad
        evaded = correlation()
    assert evaded < before < taught


def test_terms_are_the_summands_without_their_weights():
    criterion, embeddings = build(), heads()
    terms = criterion.correlations(embeddings)
    for pair, term in zip(PAIRS, terms, strict=True):
        expected = naive(embeddings, criterion.regressors[pair], pair)
        assert term.item() == pytest.approx(expected.item(), rel=1e-4)
    total = sum(rho * term for rho, term in zip(criterion.rho, terms, strict=True))
    assert total.item() == pytest.approx(criterion(embeddings).item(), rel=1e-5)


def test_features_in_no_pair_are_left_alone():
    embeddings = heads()
    build(["b-a"])(embeddings).backward()
    assert embeddings["a"].grad.any() and embeddings["b"].grad.any()
    assert embeddings["c"].grad is None and embeddings["d"].grad is None


def test_one_weight_for_all_pairs_or_one_for_each(make_opt):
    argv = ["--diva_features", "discriminative", "selfsimilarity", "shared"]
    one = criteria.select("adversarial_separation", make_opt(
        *argv, "--diva_rho_decorrelation", 300, "--diva_decorrnet_lr", 0.3), n_classes=2)
    assert one.directions == ["selfsimilarity-discriminative", "shared-discriminative",
                              "shared-selfsimilarity"]
    assert one.rho.tolist() == [300, 300, 300] and one.lr == 0.3
    assert one.regressors["shared-selfsimilarity"][0].out_features == 512
    each = criteria.select("adversarial_separation", make_opt(
        *argv, "--diva_rho_decorrelation", 1, 2, 3), n_classes=2)
    assert each.rho.tolist() == [1, 2, 3]


@pytest.mark.parametrize("rho, weight", [((0, 0, 0), 0), ((0, 0, 2), 1)])
def test_the_feature_is_off_where_all_weights_are_zero(make_opt, rho, weight):
    opt = make_opt("--diva_features", "discriminative", "selfsimilarity", "shared",
                   "--diva_rho_decorrelation", *rho)
    assert Feature.from_opt("sep. loss", opt, network=None, n_classes=2).weight == weight


@pytest.mark.parametrize("kind", ["equal", "opposite", "zero", "long"])
@pytest.mark.parametrize("n", [1, 2])
def test_degenerate_batches_stay_finite(kind, n):
    x = F.normalize(torch.randn(1, 6), dim=1).repeat(n, 1)
    factors = {"equal": (1, 1, 1), "opposite": (1, -1, 1), "zero": (0, 0, 0),
               "long": (1e3, -1e3, 1e3)}[kind]
    embeddings = {name: (factor * x).requires_grad_()
                  for name, factor in zip("abc", factors, strict=True)}
    criterion = build()
    loss = criterion(embeddings)
    loss.backward()
    assert loss.isfinite()
    for tensor in (*embeddings.values(), *criterion.parameters()):
        assert tensor.grad.isfinite().all()


def test_nothing_waits_for_the_device(without_waiting):
    criterion, embeddings = build(), heads()
    with without_waiting:
        criterion(embeddings).backward()
        criterion.correlations(embeddings)
