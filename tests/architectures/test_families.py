"""A model of each family of timm trains two steps, resumes, and gives what timm's own gives."""

import pytest
import torch

import architectures
from tests import runs

timm = pytest.importorskip("timm")

# A small model of each family that is quick on a CPU, by the size of its images in pixels.
FAMILIES = {
    32: (
        "convit_tiny test_byobnet test_convnext test_efficientnet test_vit "
        "vit_tiny_patch16_dinov3_qkvb"),
    64: (
        "cpubone_nano cs3darknet_focus_s cspnext_tiny dla46x_c edgenext_xx_small "
        "efficientformerv2_s0 efficientvim_m1 efficientvit_b0 ese_vovnet19b_slim_dw fasternet_t0 "
        "gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 iformer_t inception_next_atto "
        "lcnetv2_small legacy_seresnet18 mobilevit_xxs pit_ti_224 regnetx_002 repghostnet_050 "
        "resnest14d resnetv2_18 rexnet_100 shvit_s1 skresnet18 starnet_s050 swiftformer_xs "
        "test_mambaout test_nfnet test_resnet visformer_tiny levit_128s fastvit_t8 poolformer_s12 "
        "mixer_s32_224 lowformer_b0 hrnet_w18_small dpn48b"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [(name, size) for size, names in FAMILIES.items()
                                        for name in names.split()])
def test_a_model_of_each_family_trains_and_resumes(tmp_path, name, size):
    folder = runs.train(tmp_path, "--arch", f"timm:{name}_normalize", "--crop_size", size,
                        "--resize", size, "--diva_features", "discriminative", "selfsimilarity",
                        "--evaltypes", "discriminative", "--evaluation_metrics", "e_recall@1")
    first = runs.last(folder)["state_dict"]
    runs.resume(folder, "--n_epochs", 2)
    last = runs.last(folder)["state_dict"]
    learned = [key for key, tensor in last.items() if not torch.equal(tensor, first[key])]
    assert any(key.startswith("model.timm.") for key in learned)

    network, _ = architectures.load(folder / "checkpoint_last.pth.tar")
    fixed = {"img_size": size} if timm.models.get_pretrained_cfg(name).fixed_input_size else {}
    model = timm.create_model(name, num_classes=0, **fixed).eval()
    model.load_state_dict({key.removeprefix("model.timm."): tensor for key, tensor in last.items()
                           if key.startswith("model.timm.")})
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        _, trunk = network(images)
        torch.testing.assert_close(trunk, model(images), rtol=1e-4, atol=1e-4)
