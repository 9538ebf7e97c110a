import io
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import images
from datasets.images import decode, examine
from datasets.workers import explain_lost_workers
from tests import trees
from utilities.errors import RunError, UserError

GREY = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (40, 1))     # a ramp from left to right


def saved(path, image, **options):
    image.save(path, **options)
    return np.asarray(decode(str(path))).astype(int)


def test_every_mode_becomes_rgb(tmp_path):
    colour = trees.picture(1)
    wanted = np.asarray(colour).astype(int)
    assert np.array_equal(saved(tmp_path / "rgb.png", colour), wanted)
    assert abs(saved(tmp_path / "rgb.jpg", colour) - wanted).mean() < 6
    assert abs(saved(tmp_path / "cmyk.jpg", colour.convert("CMYK")) - wanted).mean() < 6
    assert abs(saved(tmp_path / "palette.png", colour.quantize(256)) - wanted).mean() < 6
    assert np.array_equal(saved(tmp_path / "rgb.bmp", colour), wanted)
    ramp = np.repeat(GREY[:, :, None], 3, 2).astype(int)
    grey = Image.fromarray(GREY)
    assert np.array_equal(saved(tmp_path / "grey.png", grey), ramp)
    assert abs(saved(tmp_path / "grey.jpg", grey) - ramp).mean() < 2
    bits = saved(tmp_path / "bits.png", grey.convert("1", dither=Image.Dither.NONE))
    assert np.array_equal(bits, (ramp > 127) * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_sixteen_bits_is_scaled_not_cut_off(tmp_path, suffix):
    deep = Image.fromarray((GREY.astype(int) * 257 + 100).clip(0, 65535).astype(np.uint16))
    pixels = saved(tmp_path / f"deep.{suffix}", deep)
    assert np.array_equal(pixels, np.repeat(GREY[:, :, None], 3, 2))


def test_what_is_transparent_lies_on_white(tmp_path):
    image = trees.picture(2).convert("RGBA")
    image.paste((10, 20, 30, 0), (0, 0, 24, 40))
    pixels = saved(tmp_path / "rgba.png", image)
    assert (pixels[:, :24] == 255).all()
    assert np.array_equal(pixels[:, 24:], np.asarray(image)[:, 24:, :3])
    palette = trees.picture(2).quantize(16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for transparency in (0, bytes([0]) + bytes([255] * 15)):
            pixels = saved(tmp_path / "palette.png", palette, transparency=transparency)
            hidden = np.asarray(palette) == 0
            assert hidden.any() and (pixels[hidden] == 255).all()
            assert np.array_equal(pixels[~hidden], np.asarray(palette.convert("RGB"))[~hidden])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    upright = trees.picture(3)
    # How a camera stores an upright picture when it was held in each of eight ways.
    stored = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
              5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, 1),
              7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: lambda x: np.rot90(x, -1),
              }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = saved(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)),
                   exif=exif)
    assert np.array_equal(pixels, np.asarray(upright))


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [trees.picture(seed) for seed in (6, 7)]
    pixels = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(pixels, np.asarray(frames[0]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_does_not_lose_the_image(tmp_path):
    path = tmp_path / "a.jpg"
    trees.picture(4).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(str(path)).size == (48, 40)


def broken_files(folder):
    """The kinds of broken files, and what is said of each."""
    whole = io.BytesIO()
    trees.picture(5, (200, 200)).save(whole, "JPEG")
    contents = {"truncated.jpg": (whole.getvalue()[:1500], "truncated"),
                "empty.jpg": (b"", "it is empty"),
                "text.jpg": (b"not an image at all", "it is no image"),
                "damaged.png": (b"\x89PNG\r\n\x1a\n" + bytes(60), ""),
                "header.bmp": (b"BM" + bytes(4), "")}
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")  # reading it would wait for ever
    said = {name: message for name, (_, message) in contents.items()}
    return said | {"dangling.jpg": "it does not exist", "folder.jpg": "it is no file",
                   "pipe.jpg": "it is no file"}


def test_a_broken_file_is_named_in_one_line(tmp_path):
    for name, message in broken_files(tmp_path).items():
        with pytest.raises(UserError) as error:
            decode(str(tmp_path / name))
        text = str(error.value)
        assert text.startswith(f"--dataset: cannot read the image {str(tmp_path / name)!r}: ")
        assert message in text and "\n" not in text and "--skip_broken_images" in text


def test_an_image_of_too_many_pixels_is_told_with_the_limit(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge\.png': it has 400,000,000 pixels, more than the "
                                        r"limit of 178,956,970; --check_data"):
        decode(str(tmp_path / "huge.png"))


def test_a_large_image_is_read_without_a_warning(tmp_path):
    Image.new("1", (10000, 9500)).save(tmp_path / "large.png")
    code = "import sys; from datasets.images import decode; print(decode(sys.argv[1]).size)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "large.png"], text=True,
                          capture_output=True, cwd=Path(images.__file__).parent.parent)
    assert (done.stdout, done.stderr) == ("(10000, 9500)\n", "")


@pytest.mark.parametrize("read", [lambda path: decode(path), lambda path: examine([path], 1)])
def test_a_file_is_whole_though_no_more_files_can_be_opened(tmp_path, read):
    path = str(trees.write(tmp_path / "a.jpg", 1))
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, highest))
    try:
        with pytest.raises(RunError, match=r"^too many files are open at once; allow more by"), \
                explain_lost_workers():
            read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, highest))
    assert decode(path).size == (48, 40)


def test_lost_contrast_is_found(tmp_path):
    """12 bits in a file of 16, a single level, floats that are no shares, and whole ranges."""
    ramp = np.linspace(0, 4095, 48)[None].repeat(40, 0)
    kinds = {"twelve.png": ramp.astype(np.uint16), "whole.png": (16 * ramp).astype(np.uint16),
             "one.png": np.full((40, 48), 700, np.uint16), "ints.tif": (16 * ramp).astype(np.int32),
             "shares.tif": (ramp / 4095).astype(np.float32), "floats.tif": ramp.astype(np.float32),
             "signed.tif": (16 * ramp - 30000).astype(np.int32)}
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / name)
    found = dict(zip(kinds, examine([str(tmp_path / name) for name in kinds], 1), strict=True))
    assert {name: finding.levels for name, finding in found.items()} == {
        "twelve.png": 16, "whole.png": 255, "one.png": 0, "ints.tif": 255, "shares.tif": 255,
        "floats.tif": 255, "signed.tif": 138}
    assert [name for name in kinds if found[name].clipped] == ["floats.tif", "signed.tif"]


def test_all_broken_files_are_found_and_no_others(tmp_path):
    said = broken_files(tmp_path)
    good = [str(trees.write(tmp_path / f"good_{i}.jpg", i)) for i in range(3)]
    findings = examine(good + [str(tmp_path / name) for name in said], threads=2)
    assert [bool(finding.fault) for finding in findings] == [False] * 3 + [True] * len(said)
