import shutil

import pytest
from PIL import ExifTags, Image

import datasets
from datasets.check import check_data
from tests import trees
from utilities.errors import UserError


def test_a_whole_dataset_of_ones_own_passes(tmp_path, capsys):
    trees.class_folders(tmp_path / "mine", n_classes=6, n_images=4)
    assert check_data("mine", trees.options(tmp_path, bs=100))
    assert capsys.readouterr().out.splitlines() == [
        f"mine in {tmp_path}",
        "  training: 12 images, 3 classes",
        "  testing: 12 images, 3 classes",
        "  24 of 24 images can be read"]


def test_counts_are_compared_with_the_published_ones(tmp_path, capsys, monkeypatch):
    trees.in_shop(tmp_path / "in-shop", n_classes=6, n_images=4)
    assert not check_data("in-shop", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert "training: 12 images, 3 classes, published are 25,882 and 3,997" in said
    assert "testing_query: 6 images, 3 classes, published are 14,218 and 3,985" in said
    monkeypatch.setitem(datasets.PUBLISHED, "in-shop", {
        "training": (12, 3), "testing_query": (6, 3), "testing_gallery": (6, 3)})
    assert check_data("in-shop", trees.options(tmp_path))
    assert "testing_gallery: 6 images, 3 classes, as published" in capsys.readouterr().out


def test_broken_images_are_named(tmp_path, capsys):
    trees.class_folders(tmp_path / "mine", n_classes=2, n_images=3)
    path = tmp_path / "mine" / "images" / "002.Class_2" / "image_01.jpg"
    path.write_bytes(b"")
    assert not check_data("mine", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert f"cannot read {str(path)!r}: it is empty" in said
    assert "5 of 6 images can be read" in said


def test_files_whose_pixels_are_changed_are_counted(tmp_path, capsys):
    trees.class_folders(tmp_path / "mine", n_classes=2, n_images=4, suffix="png")
    files = sorted((tmp_path / "mine" / "images" / "001.Class_1").glob("image_*"))
    for path, orientation in zip(files, (1, 3, 8), strict=False):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        trees.picture(0).save(path, exif=exif)
    trees.picture(0).convert("RGBA").save(files[3])
    assert check_data("mine", trees.options(tmp_path))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "  2 of them are turned by the EXIF tag",
        "  1 of them is transparent and laid on white"]


def test_what_does_not_count_as_an_image_is_told(tmp_path, capsys):
    trees.class_folders(tmp_path / "mine", n_classes=2, n_images=3)
    folder = tmp_path / "mine" / "images" / "001.Class_1"
    (folder / "image_00.jpg").rename(folder / "image_00.jpg.bak")
    (folder / "image_09.jpg").mkdir()
    for i in range(12):
        (folder / f"notes_{i:02d}").touch()
    assert check_data("mine", trees.options(tmp_path))
    told = capsys.readouterr().out.splitlines()[-1]
    names = ["image_00.jpg.bak", "image_09.jpg", *(f"notes_{i:02d}" for i in range(8))]
    assert told == ("  14 entries beside them do not count as images: "
                    + ", ".join(repr(str(folder / name)) for name in names) + ", ...")


def test_a_single_entry_is_told_in_the_singular(tmp_path, capsys):
    folder = trees.class_folders(tmp_path / "mine", n_classes=2, n_images=1) / "images"
    (folder / "001.Class_1" / "notes").touch()
    trees.picture(0, (1, 1)).resize((48, 40)).save(folder / "002.Class_2" / "image_00.jpg")
    assert check_data("mine", trees.options(tmp_path))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  training: 1 image, 1 class",
        "  testing: 1 image, 1 class",
        "  2 of 2 images can be read",
        "  1 of them shows one grey level or colour alone: "
        f"{str(folder / '002.Class_2' / 'image_00.jpg')!r}",
        "  1 entry beside them does not count as an image: "
        f"{str(folder / '001.Class_1' / 'notes')!r}"]


def test_copies_within_a_split_are_told_without_those_across(tmp_path, capsys):
    folder = trees.class_folders(tmp_path / "mine", n_classes=2, n_images=1) / "images"
    image = folder / "001.Class_1" / "image_00.jpg"
    shutil.copy(image, image.with_name("image_01.jpg"))
    assert check_data("mine", trees.options(tmp_path))
    assert capsys.readouterr().out.splitlines()[-2] == (
        "  2 files hold the same bytes as another:")


def test_files_of_the_same_bytes_are_told_and_pass(tmp_path, capsys):
    """Those in two splits first. Files of equal size that differ are not among them."""
    folder = trees.class_folders(tmp_path / "mine", n_classes=4, n_images=3, suffix="bmp")
    first, second, third, fourth = sorted((folder / "images").glob("[0-9]*"))
    for source, copy in ((first / "image_00.bmp", first / "image_03.bmp"),
                         (second / "image_01.bmp", third / "image_09.bmp"),
                         (second / "image_01.bmp", fourth / "image_09.bmp")):
        shutil.copy(source, copy)
    assert check_data("mine", trees.options(tmp_path))
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "  5 files hold the same bytes as another, 3 of them as one in another split:",
        f"    {str(second / 'image_01.bmp')!r} (training), {str(third / 'image_09.bmp')!r} "
        f"(testing), {str(fourth / 'image_09.bmp')!r} (testing)",
        f"    {str(first / 'image_00.bmp')!r} (training), {str(first / 'image_03.bmp')!r} "
        "(training)"]


def test_the_faults_of_a_list_stand_in_the_report_of_the_images(tmp_path, capsys):
    folder = trees.online_products(tmp_path / "online_products")
    for split, row in (("train", 3), ("test", 4)):
        path = folder / "Info_Files" / f"Ebay_{split}.txt"
        path.write_text(path.read_text() + path.read_text().splitlines()[row] + "\n")
    broken = folder / "images" / "bicycle_final" / "111000000000_0.JPG"
    broken.write_bytes(b"")
    assert not check_data("online_products", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert said.count("; accepted: each path once, in one split") == 2
    assert f"cannot read {str(broken)!r}: it is empty" in said and "23 of 24 images" in said
    assert "training: 13 images" in said and "same bytes" not in said


def test_all_faults_of_class_folders_stand_in_one_report(tmp_path, capsys):
    """Links that lead nowhere or in a circle, an empty class, broken images and missing ones."""
    images = trees.class_folders(tmp_path / "mine", n_classes=4, n_images=3) / "images"
    (images / "005.Circle").symlink_to("005.Circle")
    (images / "006.Gone").symlink_to("nowhere")
    (images / "007.Empty").mkdir()
    (images / "001.Class_1" / "circle.jpg").symlink_to("circle.jpg")
    (images / "001.Class_1" / "gone.jpg").symlink_to("nowhere.jpg")
    assert not check_data("mine", trees.options(tmp_path))
    said = capsys.readouterr().out
    for line in (f"{str(images / '005.Circle')!r} cannot be reached (Too many levels of symbolic "
                 "links); accepted: class folders, and links to them; delete the link, since "
                 "--skip_broken_images leaves out images alone",
                 f"{str(images / '006.Gone')!r} does not exist",
                 f"no image in the class folder {str(images / '007.Empty')!r}",
                 f"cannot read {str(images / '001.Class_1' / 'circle.jpg')!r}: Too many levels",
                 f"cannot read {str(images / '001.Class_1' / 'gone.jpg')!r}: it does not exist",
                 "12 of 14 images can be read"):
        assert line in said
    with pytest.raises(UserError, match=r"faults in all: 3, see --check_data\)$"):
        datasets.select("mine", trees.options(tmp_path, skip_broken_images=True))


def test_listed_images_that_are_missing_are_named(tmp_path, capsys):
    """Files, a whole folder, and names that no file system takes."""
    folder = trees.online_products(tmp_path / "online_products")
    (folder / "images" / "sofa_final").rename(folder / "images" / "sofas")
    with open(folder / "Info_Files" / "Ebay_train.txt", "a") as table:
        table.write(f"99 1 1 bicycle_final/{'x' * 300}.JPG\n")
    assert not check_data("online_products", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert said.count("sofa_final/") == said.count(".JPG': it does not exist") == 12
    assert "xx.JPG': File name too long" in said and "12 of 25 images can be read" in said


def test_a_missing_folder_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        check_data("cub200", trees.options(tmp_path))


def test_the_published_counts_are_those_of_the_papers():
    assert datasets.PUBLISHED == {
        "cub200": {"training": (5864, 100), "testing": (5924, 100)},
        "cars196": {"training": (8054, 98), "testing": (8131, 98)},
        "online_products": {"training": (59551, 11318), "testing": (60502, 11316)},
        "in-shop": {"training": (25882, 3997), "testing_query": (14218, 3985),
                    "testing_gallery": (12612, 3985)}}
