import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import architectures
from utilities.errors import UserError


@pytest.mark.parametrize("arch, expected", [
    ("resnet50", ("resnet50", False, False)),
    ("resnet50_frozen", ("resnet50", True, False)),
    ("resnet50_frozen_normalize", ("resnet50", True, True)),
    ("resnet50_normalize_frozen", ("resnet50", True, True)),
    ("bninception_normalize", ("bninception", False, True)),
    ("resnext50_32x4d_frozen", ("resnext50_32x4d", True, False)),
    ("timm:resnet18", ("timm:resnet18", False, False)),
    ("timm:vit_small_patch16_224.dino_frozen_normalize",
     ("timm:vit_small_patch16_224.dino", True, True)),
    ("timm:a-model.with_4x-tag_normalize", ("timm:a-model.with_4x-tag", False, True)),
])
def test_reads_backbone_and_suffixes_in_any_order(arch, expected):
    assert architectures.parse(arch) == expected


@pytest.mark.parametrize("arch", [
    "", "_", "frozen", "frozen_normalize", "_frozen", "resnet50_", "resnet50__frozen",
    "resnet50_frozen_frozen", "resnet50_normalize_frozen_normalize", "frozen_resnet50",
    "resnet50_frozen_v2", "resnet50-frozen", "resnet50 frozen", "resnet/50",
    "timm:", "timm:_frozen", "timm:frozen", "timm:hf-hub:a", "timm:a/b", "timm:a_frozen_b",
    "resnet18.dino"])
def test_refuses_what_is_not_of_the_grammar(arch):
    with pytest.raises(UserError, match=r"^--arch: cannot read .*; accepted: .*frozen.*normalize"):
        architectures.parse(arch)


words = st.text("abcdefgh0123456789", min_size=1, max_size=6)
suffixes = st.sampled_from([order for n in range(3)
                            for order in itertools.permutations(architectures.SUFFIXES, n)])


@given(st.lists(words, min_size=1, max_size=3), suffixes)
def test_what_is_put_together_is_taken_apart(backbone, given_suffixes):
    arch = "_".join([*backbone, *given_suffixes])
    assert architectures.parse(arch) == (
        "_".join(backbone), "frozen" in given_suffixes, "normalize" in given_suffixes)


def test_parsing_needs_no_torch():
    code = ("import sys, architectures; architectures.parse('resnet50_frozen'); "
            "architectures.usual_crop('timm:vit_small_patch16_224.dino'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_backbone_is_refused_with_what_exists(make_opt):
    opt = make_opt("--not_pretrained")
    with pytest.raises(UserError, match=r"^--arch: unknown 'resnet51' \(did you mean 'resnet\d+'"
                                        r"\?\); accepted: .*bninception, .*resnet50"):
        architectures.select("resnet51_frozen", opt)


def test_a_crop_too_small_for_the_backbone_is_refused(make_opt):
    opt = make_opt("--not_pretrained", "--crop_size", 48)
    with pytest.raises(UserError, match=r"^--crop_size: --arch bninception cannot take images of "
                                        r"48 x 48 pixels; accepted: e\.g\. \d+$"):
        architectures.select("bninception", opt)
