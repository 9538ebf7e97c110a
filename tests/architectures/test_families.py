"""A model of each family of timm trains two steps, resumes, and gives what timm's own gives."""

import pytest
import torch

import architectures
from tests import runs

timm = pytest.importorskip("timm")

# A small model of each family, and its image size in pixels.
FAMILIES = {
    "beit_base_patch16_224": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_each_family_trains_and_resumes(tmp_path, name):
    size = FAMILIES[name]
    folder = runs.train(tmp_path, "--arch", f"timm:{name}_normalize", "--crop_size", size,
                        "--resize", size,
                        "--diva_features", "discriminative", "selfsimilarity",
                        "--evaltypes", "discriminative", "--evaluation_metrics", "e_recall@1")
    first = runs.last(folder)["state_dict"]
    runs.resume(folder, "--n_epochs", 2)
    last = runs.last(folder)["state_dict"]
    learned = [key for key, tensor in last.items() if not torch.equal(tensor, first[key])]
    assert any(key.startswith("model.timm.") for key in learned)

    network, options = architectures.load(folder / "checkpoint_last.pth.tar")
    fixed = ({"img_size": size} if timm.models.get_pretrained_cfg(name).fixed_input_size else {})
    model = timm.create_model(name, num_classes=0, **fixed).eval()
    model.load_state_dict({key.removeprefix("model.timm."): tensor for key, tensor in last.items()
                           if key.startswith("model.timm.")})
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        _, trunk = network(images)
        torch.testing.assert_close(trunk, model(images), rtol=1e-4, atol=1e-4)
