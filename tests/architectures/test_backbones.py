import pytest
import torch
from torch import nn
from torchvision import models

from architectures import backbones

# One of each family that is quick to build; all of them under `make test-slow`.
QUICK = {"alexnet": 256, "bninception": 1024, "convnext_tiny": 768, "densenet121": 1024,
         "dpn68": 832, "efficientnet_b0": 1280, "googlenet": 1024, "inception_v3": 2048,
         "inceptionv3": 2048, "mnasnet0_5": 1280, "mobilenet_v2": 1280, "mobilenet_v3_small": 576,
         "regnet_y_400mf": 440, "resnet18": 512, "resnet50": 2048, "resnext50_32x4d": 2048,
         "se_resnet50": 2048, "shufflenet_v2_x0_5": 1024, "squeezenet1_1": 512, "swin_t": 768,
         "vit_b_32": 768, "xception": 2048}
TOO_BIG = ("128gf", "32gf", "vit_h", "vit_l", "convnext_large", "efficientnet_b7")
OTHERS = [name for name in backbones.TORCHVISION + backbones.PRETRAINEDMODELS
          if name not in QUICK and not any(part in name for part in TOO_BIG)]
SIZES = {"vit_b_32": 224, "swin_t": 64}


def features(name, size):
    backbone = backbones.build(name).eval()
    with torch.inference_mode():
        return backbone(torch.randn(1, 3, size, size)), backbones.feature_dim(backbone, name, size)


@pytest.mark.parametrize("name", QUICK)
def test_backbones_give_pooled_features(name):
    size = SIZES.get(name, 96 if "inception" in name else 64)
    pooled, width = features(name, 224 if name == "bninception" else size)
    assert pooled.shape == (1, QUICK[name]) and width == QUICK[name]
    assert pooled.isfinite().all() and pooled.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_all_other_backbones_give_pooled_features(name):
    pooled, width = features(name, next(
        size for size in (64, 96, 224) if backbones.width_of(backbones.build(name), size)))
    assert pooled.shape == (1, width) and pooled.isfinite().all()


def test_each_name_is_built_once_and_the_paper_s_by_pretrainedmodels():
    assert not set(backbones.TORCHVISION) & set(backbones.PRETRAINEDMODELS)
    assert {"resnet50", "bninception"} <= set(backbones.PRETRAINEDMODELS)
    assert {"resnet18", "resnet101", "densenet121"} <= set(backbones.TORCHVISION)


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than")
@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "resnet18"])
def test_features_are_the_classifier_s_input(name):
    """Against the libraries' own forward at 224 px, where their fixed windows pool globally."""
    backbone = backbones.build(name).eval()
    if name in backbones.PRETRAINEDMODELS:
        import pretrainedmodels

        whole = getattr(pretrainedmodels, name)(pretrained=None).eval()
        classifier = whole.last_linear
    else:
        whole = models.get_model(name, weights=None).eval()
        classifier = whole.fc
    backbone.model.load_state_dict(whole.state_dict(), strict=False)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(backbone(images)), whole(images))


def test_training_mode_is_kept_and_nothing_is_computed_to_learn_the_width():
    backbone = backbones.build("resnet18").train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    assert backbones.feature_dim(backbone, "resnet18", 32) == 512
    assert backbone.training and backbone.model.bn1.training
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.device.type == "cpu"


def test_side_branches_are_off_in_training():
    for name in ("googlenet", "inception_v3", "inceptionv3"):
        backbone = backbones.build(name).train()
        assert isinstance(backbone(torch.randn(2, 3, 96, 96)), torch.Tensor)
        assert not any("aux" in parameter.lower() for parameter, _ in backbone.named_parameters())


@pytest.mark.parametrize("space, constants, byte_range", [("RGB", (0.5, 0.5), 1),
                                                          ("BGR", (104.0, 1.0), 255)])
def test_inputs_are_renormalised_for_networks_trained_on_others(space, constants, byte_range):
    mean, std = [constants[0]] * 3, [constants[1]] * 3
    raw = torch.rand(2, 3, 4, 4)
    images = (raw - torch.tensor(backbones.IMAGENET["mean"])[:, None, None]) / torch.tensor(
        backbones.IMAGENET["std"])[:, None, None]
    module = backbones.Renormalise(mean, std, space, [0, byte_range])
    expected = ((raw.flip(1) if space == "BGR" else raw) * byte_range - constants[0]) / constants[1]
    torch.testing.assert_close(module(images), expected, atol=1e-4, rtol=1e-5)
    assert not module.state_dict()


def test_which_networks_want_other_inputs():
    assert isinstance(backbones.build("xception").model.renormalise, backbones.Renormalise)
    for name in ("resnet50", "bninception", "se_resnet50"):
        assert isinstance(backbones.build(name).model.renormalise, nn.Identity)


def test_networks_that_the_library_s_import_builds_take_no_memory_and_are_drawn_when_built():
    def drawn(seed):
        torch.manual_seed(seed)
        return backbones.build("resnext101_32x4d").state_dict()

    library = backbones.pretrainedmodels.models.resnext.resnext101_32x4d_features
    assert all(tensor.is_meta for tensor in library.state_dict().values())
    one, same, other = drawn(0), drawn(0), drawn(1)
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    weight = "model.features.0.weight"
    assert not torch.equal(one[weight], other[weight])
    assert one[weight].data_ptr() != same[weight].data_ptr()
    assert one["model.features.1.running_var"].eq(1).all()
