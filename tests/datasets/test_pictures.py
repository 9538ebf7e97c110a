"""Images without classes: folders, tables, boxes, broken files."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import images, pictures, transforms
from datasets.pictures import Picture, Pictures
from tests import trees
from utilities.errors import UserError

OPTIONS = Namespace(arch="resnet18_normalize", crop_size=24, resize=32)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/er/c.jpg", ".hidden/d.jpg", "deep/.e.jpg"):
        trees.write(tmp_path / "images" / name, len(name))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images" / "deep")
    (tmp_path / "images" / "f.jpg").symlink_to(tmp_path / "images" / "b.jpg")
    return tmp_path / "images"


def test_a_folder_is_searched_at_any_depth_without_hidden_files_and_linked_folders(folder):
    found = pictures.find(folder, "--images")
    assert [picture.name for picture in found] == ["a.PNG", "b.jpg", "deep/er/c.jpg", "f.jpg"]
    assert all(Path(picture.source) == folder / picture.name for picture in found)


def test_an_image_is_what_evaluation_makes_of_it(folder):
    found = pictures.find(folder, "--images")
    batch = Pictures(found, OPTIONS, "--images")[1, 0]
    whole = transforms.evaluation_transform(24, 32)(images.decode(str(folder / "b.jpg")))
    assert torch.equal(batch.images, whole) and batch.indices == 1


def test_a_table_gives_paths_below_it_and_boxes(folder):
    (folder / "table.csv").write_text(
        "label,path,x_1,x_2,y_1,y_2\n0,b.jpg,8,40,4,36\n1,deep/er/c.jpg,,,,\n0,b.jpg,0,9,0,9.0\n")
    found = pictures.find(folder / "table.csv", "--images")
    assert [(picture.name, images.box_of(picture.source)) for picture in found] == [
        ("b.jpg", (8, 4, 40, 36)), ("deep/er/c.jpg", None), ("b.jpg", (0, 0, 9, 9))]
    opened = found[0].open("--images")
    assert np.array_equal(opened, np.asarray(Image.open(folder / "b.jpg"))[4:36, 8:40])


@pytest.mark.parametrize(("text", "told"), [
    ("label\n0\n", "the header of .* has no column path"),
    ("path,x_1,x_2,y_1,y_2\nb.jpg,1,2,,\n", "row 2 of .*: the box x_1=1 y_1= "),
    ("path,x_1,x_2,y_1,y_2\nb.jpg,5,2,1,3\n", "x_1 < x_2"),
    ("path,label\n,1\n", "row 2 of .*: path ''"),
    ("path\n", "no image in"),
    ('path\n"\n', "cannot read")])
def test_a_wrong_table_is_refused_with_its_line(folder, text, told):
    (folder / "table.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=told) as error:
        pictures.find(folder / "table.csv", "--images")
    assert str(error.value).startswith("--images: ")


def test_what_is_no_image_is_named_with_the_flag(folder):
    (folder / "b.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"--gallery: cannot read the image .*b\.jpg' \(it is no"):
        Picture("b.jpg", str(folder / "b.jpg")).open("--gallery")
    kept = pictures.without_broken(pictures.find(folder, "--images"), 2)
    assert [picture.name for picture in kept] == ["a.PNG", "deep/er/c.jpg"]


@pytest.mark.parametrize("path", ["empty", "nowhere"])
def test_a_place_without_images_is_refused(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^--images: "):
        pictures.find(tmp_path / path, "--images")


def test_an_opened_image_is_turned_and_laid_on_white_and_left_as_it_is():
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6    # lies on its side
    image.info["exif"] = exif.tobytes()
    opened = Picture("image 0", image).open("images")
    assert (opened.mode, opened.size) == ("RGB", (2, 4)) and opened.getpixel((0, 0)) == (255,) * 3
    assert (image.mode, image.size) == ("RGBA", (4, 2))
