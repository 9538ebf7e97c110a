import numpy as np
import pytest
import torch
from PIL import Image

from datasets import cache
from datasets.cache import in_memory
from datasets.images import decode
from tests import trees
from utilities.errors import UserError


def test_kept_images_are_the_decoded_ones(tmp_path, capsys):
    paths = [str(trees.write(tmp_path / f"{i}.jpg", i, (30 + i, 20 + 3 * i))) for i in range(5)]
    exif = Image.Exif()
    exif[0x0112] = 6
    trees.picture(1, (40, 20)).save(paths[0], exif=exif)
    kept = in_memory(paths, threads=2)
    assert "--cache ram: 5 decoded images need 0.00 GB of " in capsys.readouterr().out
    for path in paths:
        assert np.array_equal(np.asarray(kept.open_image(path)), np.asarray(decode(path)))
    assert kept.open_image(paths[0]).size == (20, 40)


def test_an_image_that_is_named_twice_is_kept_once(tmp_path, capsys):
    path = str(trees.write(tmp_path / "a.jpg", 1))
    kept = in_memory([path, path], threads=2)
    assert "--cache ram: 1 decoded images need " in capsys.readouterr().out
    assert len(kept.bytes) == 48 * 40 * 3


def test_another_image_is_read_from_its_file(tmp_path):
    one, other = (str(trees.write(tmp_path / f"{i}.png", i)) for i in range(2))
    opened = in_memory([one], threads=1).open_image(other)
    assert np.array_equal(np.asarray(opened), np.asarray(decode(other)))


def test_a_broken_file_ends_the_filling_of_a_cache(tmp_path):
    paths = [str(trees.write(tmp_path / f"{i}.jpg", i)) for i in range(3)]
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:400])
    with pytest.raises(UserError, match=r"cannot read the image .*1\.jpg"):
        in_memory(paths, threads=2)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    path = str(trees.write(tmp_path / "a.jpg", 1))
    monkeypatch.setattr(cache, "available_memory", lambda: 48 * 40 * 3 - 1)
    monkeypatch.setattr(cache, "shared_bytes", lambda n: pytest.fail("memory was taken"))
    with pytest.raises(UserError, match="--cache: 'ram' does not fit: 1 decoded images need"):
        in_memory([path], threads=1)


def test_a_cache_leaves_its_reserve_and_says_what_is_left(capsys):
    cache.announce("gpu", 10, 3 * 2**30, 4 * 2**30, reserve=2**30)
    assert capsys.readouterr().out == ("--cache gpu: 10 decoded images need 3.00 GB of 4.00 GB "
                                       "available, 1.00 GB are left for training\n")
    with pytest.raises(UserError) as error:
        cache.announce("gpu", 10, 3 * 2**30 + 1, 4 * 2**30, reserve=2**30)
    assert ("need 3.00 GB, 4.00 GB are available, 1.00 GB of them stay for training; accepted here"
            in str(error.value))


def test_available_memory_is_plausible():
    assert 2**26 < cache.available_memory() < 2**50


def test_shared_bytes_are_bytes():
    pixels = cache.shared_bytes(10)
    assert pixels.dtype == torch.uint8 and pixels.shape == (10,)


def test_copies_of_several_processes_are_counted(capsys):
    cache.announce("ram", 10, 2**30, 4 * 2**30, copies=4)
    assert capsys.readouterr().out == (
        "--cache ram: 4 copies, one for each process, of 10 decoded images need 4.00 GB of 4.00 GB "
        "available\n")
    with pytest.raises(UserError, match=r"5 copies, .* need 5\.00 GB, 4\.00 GB are available"):
        cache.announce("ram", 10, 2**30, 4 * 2**30, copies=5)


@pytest.mark.parametrize(("rank", "told"), [(0, "3 copies, one for each process, of 1"), (1, "")])
def test_the_first_process_of_a_machine_checks_for_all(monkeypatch, capsys, tmp_path, rank, told):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3,
                        "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, str(value))
    cache.in_memory([str(tmp_path / "a.png")], 1)
    printed = capsys.readouterr().out
    assert told in printed and bool(printed) == bool(told)
