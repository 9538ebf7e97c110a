import os

import pytest

import datasets
from datasets.check import check_data
from datasets.class_folders import by_number, files, visible
from tests import trees
from tests.utilities.test_files import ROOT
from utilities.errors import UserError


def test_first_half_of_the_classes_trains_in_order_of_the_leading_number(tmp_path):
    for number in (2, 10, 1, 9):
        trees.write(tmp_path / "birds" / "images" / f"{number}.Bird" / "a.jpg", number)
        trees.write(tmp_path / "birds" / "images" / f"{number}.Bird" / "b.png", number)
    splits = datasets.select("birds", trees.options(tmp_path))
    assert splits["training"].class_names == ["1.Bird", "2.Bird"]
    assert splits["testing"].class_names == ["9.Bird", "10.Bird"]
    assert splits["testing"].labels.tolist() == [0, 0, 1, 1]


def test_cars196_is_in_string_order_though_its_classes_have_numbers(tmp_path):
    for number in (2, 10, 1, 9):
        trees.write(tmp_path / "cars196" / "images" / f"{number}.Car" / "a.jpg", number)
    splits = datasets.select("cars196", trees.options(tmp_path, bs=2))
    assert splits["training"].class_names == ["1.Car", "10.Car"]
    assert splits["testing"].class_names == ["2.Car", "9.Car"]


def test_without_a_number_on_every_class_the_order_is_that_of_strings():
    assert by_number(["b", "10.a", "2.a"]) == ["10.a", "2.a", "b"]
    assert by_number(["10.a", "2.b", "2.a"]) == ["2.a", "2.b", "10.a"]


def test_hidden_files_and_other_types_are_skipped(tmp_path):
    trees.class_folders(tmp_path / "cub200", n_classes=4, n_images=3)
    folder = tmp_path / "cub200" / "images" / "001.Class_1"
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (folder / "nested").mkdir()
    trees.write(folder / "UPPER.JPG", 5)
    assert [os.path.basename(path) for path in files(visible(folder))] == [
        "UPPER.JPG", "image_00.jpg", "image_01.jpg", "image_02.jpg"]
    splits = datasets.select("cub200", trees.options(tmp_path))
    assert len(splits["training"]) == 7 and len(splits["testing"]) == 6


def test_odd_names_and_links_work(tmp_path):
    images = tmp_path / "odd" / "images"
    long = "x" * 240
    trees.write(images / "Ünïcödé 类" / "søren bild.jpg", 1)
    trees.write(images / "Ünïcödé 类" / f"{long}.jpg", 2)
    elsewhere = trees.write(tmp_path / "elsewhere" / "a.jpg", 3)
    (images / long).mkdir()
    (images / long / "link.jpg").symlink_to(elsewhere)
    (images / "linked class").symlink_to(elsewhere.parent, target_is_directory=True)
    splits = datasets.select("odd", trees.options(tmp_path, bs=1, diva_features=["imrot"]))
    names = splits["training"].class_names + splits["testing"].class_names
    assert names == sorted([long, "linked class", "Ünïcödé 类"])
    assert [splits["testing"][i, 0].images.shape for i in range(3)] == [(3, 24, 24)] * 3


def test_thousands_of_classes(tmp_path):
    picture = trees.write(tmp_path / "a.png", 1, (24, 24))
    for number in range(3000):
        folder = tmp_path / "many" / "images" / f"{number}.c"
        folder.mkdir(parents=True)
        os.link(picture, folder / "a.png")
    splits = datasets.select("many", trees.options(tmp_path))
    assert splits["testing"].labels.tolist() == list(range(1500))
    assert splits["testing"].class_names[-1] == "2999.c"


@pytest.mark.parametrize(("name", "message"), [
    ("cub200", "--source_path: '{0}/cub200/images' does not exist; --dataset cub200 is expected "
               "as {0}/cub200/images/<class>/<image files>"),
    ("cub20", "--source_path: '{0}/cub20/images' does not exist; --dataset cub20 is expected "
              "as {0}/cub20/images/<class>/<image files>; known names: cub200, cars196, "),
    ("../cub200", "--dataset: '../cub200' is no folder's name; accepted: cub200, "),
    ("one", "--dataset: 1 class folders in '{0}/one/images'; at least 2 are needed"),
    ("linked", "--source_path: '{0}/linked/images/0"),
    ("empty", "--dataset: no image in the class folder '{0}/empty/images/2.b'"),
])
def test_what_is_not_in_the_layout_is_refused_in_one_line(tmp_path, name, message):
    trees.write(tmp_path / "one" / "images" / "1.a" / "a.jpg", 1)
    trees.write(tmp_path / "empty" / "images" / "1.a" / "a.jpg", 1)
    (tmp_path / "empty" / "images" / "2.b").mkdir()
    (tmp_path / "empty" / "images" / "2.b" / "._a.jpg").write_bytes(b"x")
    trees.class_folders(tmp_path / "linked")
    (tmp_path / "linked" / "images" / "009.Circle").symlink_to("009.Circle")
    (tmp_path / "linked" / "images" / "010.Gone").symlink_to("nowhere")
    with pytest.raises(UserError) as error:
        datasets.select(name, trees.options(tmp_path))
    assert str(error.value).startswith(message.format(tmp_path))
    assert "\n" not in str(error.value)


def test_images_in_folders_inside_class_folders_are_counted_and_left_out(tmp_path, capsys):
    folder = trees.class_folders(tmp_path / "mine") / "images"
    first = trees.write(folder / "001.Class_1" / "sub" / "a.jpg", 1)
    trees.write(folder / "001.Class_1" / "sub" / "further" / "b.jpg", 2)
    trees.write(folder / "006.Class_6" / "sub" / "c.jpg", 3)
    (folder / "006.Class_6" / "empty").mkdir()
    (folder / "006.Class_6" / "link").symlink_to(folder)
    told = ("--source_path: images that lie in folders inside the class folders and are left out: "
            f"3, the first is {str(first)!r}\n")
    splits = datasets.select("mine", trees.options(tmp_path))
    assert (len(splits["training"]), len(splits["testing"])) == (12, 12)
    assert capsys.readouterr().out == told
    assert check_data("mine", trees.options(tmp_path))
    assert told in capsys.readouterr().out


@pytest.mark.skipif(ROOT, reason="root may read every folder")
def test_a_class_folder_that_cannot_be_listed_is_refused(tmp_path):
    folder = trees.class_folders(tmp_path / "mine") / "images" / "006.Class_6"
    folder.chmod(0)
    try:
        with pytest.raises(UserError) as error:
            datasets.select("mine", trees.options(tmp_path))
    finally:
        folder.chmod(0o755)
    assert str(error.value) == (f"--source_path: cannot list {str(folder)!r}: Permission denied; "
                                "accepted: a folder that you may read")
