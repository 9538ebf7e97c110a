import numpy as np
import pytest
import torch

import criteria
from criteria.dc import Criterion, principal_components
from utilities.errors import TrainingError, UserError


def build(n_samples=60, n_clusters=4, feature_dim=10, pca_dim=5):
    return Criterion(feature_dim, n_samples, n_clusters=n_clusters, pca_dim=pca_dim, lr=1)


def two_blobs():
    """Far apart in space, in no order: features (60, 10) and the blob of each row."""
    blob = torch.randint(0, 2, (60,))
    return 10 * torch.randn(2, 10)[blob] + torch.randn(60, 10), blob


def same_partition(a, b):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return (a[:, None] == a).equal(b[:, None] == b)


def test_golden(golden, make_opt):
    arrays, _ = golden("criteria")
    criterion = criteria.select("dc", make_opt("--diva_dc_ncluster", 7), n_classes=12,
                                feature_dim=32, n_samples=96)
    with torch.no_grad():
        criterion.classifier.weight.copy_(arrays["dc.weight"])
    criterion.pseudo_labels.copy_(arrays["dc.pseudo_labels"])
    loss = criterion(arrays["trunk"], arrays["dc.indices"])
    assert loss.item() == pytest.approx(arrays["dc.loss"].item(), rel=1e-4)


def test_agrees_with_a_loop(batch, agree):
    """Row i of the batch is image `indices[i]` of the training set."""
    criterion = build(feature_dim=6)
    criterion.pseudo_labels.random_(4)
    indices = torch.randperm(60)[:16]

    def oracle(x, weight):
        logits = [torch.stack([row @ w for w in weight]) for row in x]
        return sum(row.logsumexp(0) - row[criterion.pseudo_labels[i]]
                   for row, i in zip(logits, indices, strict=True)) / len(x)

    assert agree(criterion, oracle, batch.raw, indices) > 0


def test_update_finds_what_lies_together():
    features, blob = two_blobs()
    criterion = build(n_clusters=2)
    criterion.update(features)
    assert criterion.pseudo_labels.dtype == torch.int64
    assert same_partition(criterion.pseudo_labels, blob)


def test_update_takes_what_inference_mode_made():
    with torch.inference_mode():
        features, blob = two_blobs()
    criterion = build(n_clusters=2)
    criterion.update(features)
    assert same_partition(criterion.pseudo_labels, blob)
    criterion(features[:4].clone(), torch.arange(4)).backward()


def test_components_are_those_of_an_svd_without_whitening_or_normalisation():
    features = torch.randn(40, 10).numpy() * np.linspace(1, 5, 10, dtype=np.float32)
    components = principal_components(features, 4)
    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    expected = u[:, :4] * s[:4]
    signs = np.sign((components * expected).sum(0))
    np.testing.assert_allclose(components * signs, expected, atol=1e-3)


@pytest.mark.parametrize("n_samples, feature_dim, pca_dim, kept", [
    (60, 10, 5, 5), (60, 10, 128, 10), (8, 10, 128, 7), (2, 10, 128, 1), (1, 10, 128, 1)])
def test_components_are_as_many_as_there_can_be_and_keep_distances(n_samples, feature_dim, pca_dim,
                                                                   kept):
    features = torch.randn(n_samples, feature_dim)
    components = torch.from_numpy(principal_components(features.numpy(), pca_dim))
    assert components.shape == (n_samples, kept)
    if pca_dim >= feature_dim:
        torch.testing.assert_close(*(torch.cdist(x.double(), x.double())
                                     for x in (components, features)), atol=1e-3, rtol=1e-3)


def test_the_classifier_starts_anew_in_place():
    criterion = build(n_clusters=30, feature_dim=50)
    weight, before = criterion.classifier.weight, criterion.classifier.weight.clone()
    assert weight.std().item() == pytest.approx(1 / 50, rel=0.1)
    features = torch.randn(60, 50)
    criterion.update(features)
    assert criterion.classifier.weight is weight and weight.requires_grad
    assert not weight.equal(before)
    assert weight.std().item() == pytest.approx(1 / 50, rel=0.1)
    assert criterion.classifier.bias is None


def test_update_is_deterministic_given_torchs_generator():
    features, one, other = torch.randn(60, 10), build(), build()
    for criterion in (one, other):
        torch.manual_seed(3)
        criterion.update(features)
    assert one.pseudo_labels.equal(other.pseudo_labels)
    assert one.classifier.weight.equal(other.classifier.weight)


def test_pseudo_labels_are_in_the_state():
    one, other = build(), build()
    one.update(torch.randn(60, 10))
    other.load_state_dict(one.state_dict())
    assert other.pseudo_labels.equal(one.pseudo_labels) and one.pseudo_labels.any()


def test_fewer_images_than_clusters_are_refused(make_opt):
    opt = make_opt("--diva_dc_ncluster", 61)
    with pytest.raises(UserError) as error:
        criteria.select("dc", opt, n_classes=2, feature_dim=10, n_samples=60)
    assert str(error.value) == ("--diva_dc_ncluster: 61 clusters, but there are only 60 training "
                                "images; accepted: 2 to 60")


@pytest.mark.parametrize("n_clusters", [1, 20, 60])
def test_equal_images_leave_clusters_empty(n_clusters):
    criterion = build(n_clusters=n_clusters)
    criterion.update(torch.ones(60, 10))
    assert len(criterion.pseudo_labels.unique()) == 1
    trunk = torch.ones(2, 10, requires_grad=True)
    loss = criterion(trunk, torch.arange(2))
    loss.backward()
    assert loss.isfinite() and trunk.grad.isfinite().all()


def test_trunks_that_overflow_in_the_principal_components_are_refused():
    criterion = build()
    with pytest.raises(TrainingError, match=r"^60 of 60 points are .*: cannot cluster them$"):
        criterion.update(1e19 * torch.randn(60, 10))


def test_as_many_clusters_as_images():
    criterion = build(n_clusters=60)
    criterion.update(torch.randn(60, 10))
    assert len(criterion.pseudo_labels.unique()) == 60


def test_learns_ten_times_as_fast_as_the_network(make_opt):
    opt = make_opt("--lr", 2e-4, "--diva_dc_ncluster", 7, "--embed_dim", 16)
    criterion = criteria.select("dc", opt, n_classes=2, feature_dim=32, n_samples=96)
    assert criterion.lr == pytest.approx(2e-3) and criterion.pca_dim == 16


def test_nothing_waits_for_the_device(batch, without_waiting):
    criterion, indices = build(feature_dim=6), torch.arange(16)
    with without_waiting:
        criterion(batch.raw.requires_grad_(), indices).backward()
