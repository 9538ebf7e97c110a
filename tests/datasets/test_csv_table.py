"""`table.csv`: what it says reaches the images, and what contradicts itself is refused by row."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import datasets
from datasets import images
from datasets.check import check_data
from datasets.loader import Loader
from tests import trees
from utilities.errors import UserError


def select(tmp_path, rows, name="mine", **given):
    trees.table(tmp_path / name, rows)
    return datasets.select(name, trees.options(tmp_path, **given))


def names(split):
    return [path.rpartition("/")[2] for path in split.paths]


def test_a_table_divides_the_images(tmp_path):
    splits = select(tmp_path, trees.table_rows()[::-1])
    assert list(splits) == ["training", "testing", "evaluation", "evaluation_train"]
    training, testing = splits["training"], splits["testing"]
    assert training.class_names == ["1", "2", "3"] and testing.class_names == ["4", "5", "6"]
    assert names(testing)[:4] == ["3_3.jpg", "3_2.jpg", "3_1.jpg", "3_0.jpg"]
    for split in (training, testing):
        assert split.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_labels_are_ordered_by_number_and_may_be_any_text(tmp_path):
    rows = [{"path": f"{i}.png", "label": label, "split": split} for i, (label, split) in enumerate(
        [("10", "train"), ("9", "train"), ("10", "train"), ("9", "train"), ("11", "validation")])]
    assert select(tmp_path, rows)["training"].class_names == ["9", "10"]
    rows += [{"path": "q.png", "label": label, "split": "validation"} for label in ['"q", b']]
    splits = select(tmp_path, rows)
    assert splits["training"].class_names == ["10", "9"]
    assert splits["testing"].class_names == ['"q", b', "11"]


def test_queries_search_the_gallery(tmp_path):
    splits = select(tmp_path, trees.table_rows(queries=True))
    query, gallery = splits["testing_query"], splits["testing_gallery"]
    assert names(query)[:2] == ["3_0.jpg", "3_2.jpg"] and names(gallery)[0] == "3_1.jpg"
    assert query.class_names == gallery.class_names == ["4", "5", "6"]
    assert len(splits["testing"]) == 12


def test_a_row_may_be_query_and_gallery(tmp_path):
    rows = trees.table_rows(queries=True)
    rows[12]["is_gallery"] = "TRUE"     # as a spreadsheet writes it
    splits = select(tmp_path, rows)
    assert len(splits["testing_query"]) == 6 and len(splits["testing_gallery"]) == 7
    assert len(splits["testing"]) == 12


@pytest.mark.parametrize("both", [("True", "True"), ("1", "1.0"), ("", "")])
def test_rows_that_are_all_both_or_nothing_are_the_ordinary_split(tmp_path, both):
    rows = trees.table_rows(queries=True)
    for row in rows[12:]:
        row["is_query"], row["is_gallery"] = both
    assert list(select(tmp_path, rows))[:2] == ["training", "testing"]


def test_a_table_wins_over_class_folders_and_not_over_lists(tmp_path):
    trees.class_folders(tmp_path / "cub200")
    rows = [{"path": f"images/00{c}.Class_{c}/image_00.jpg", "label": f"L{c // 2}", "split": split}
            for c, split in ((1, "train"), (2, "train"), (4, "validation"), (5, "validation"))]
    splits = select(tmp_path, rows, "cub200", bs=2, diva_features=["imrot"])
    assert len(splits["training"]) == 2 and splits["testing"].class_names == ["L2"]
    trees.online_products(tmp_path / "online_products")
    assert len(select(tmp_path, rows, "online_products")["training"]) == 12


def test_boxes_are_cut_out_before_anything_else(tmp_path):
    """Of the stored pixels: the EXIF turn comes later."""
    folder, box = tmp_path / "mine", {"x_1": 8, "y_1": 4, "x_2": 40, "y_2": 20}
    folder.mkdir()
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[4:20, 8:40] = 200
    pixels[4:20, 8:24, 0] = 40      # the box's left half, on top once it is turned
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6     # a quarter turn clockwise
    for suffix in ("png", "jpg"):
        Image.fromarray(pixels).save(folder / f"turned.{suffix}", exif=exif, quality=95)
    rows = [row | dict.fromkeys(box, "") for row in trees.table_rows()]
    rows += [{"path": f"turned.{suffix}", "label": 1, "split": "train"} | box
             for suffix in ("png", "jpg")]
    training = select(tmp_path, rows)["training"]
    for path in training.paths[4:6]:
        image = images.decode(path)
        assert image.size == (16, 32)
        reds = np.asarray(image)[..., 0]
        assert abs(reds[:14].mean() - 40) < 8 and abs(reds[18:].mean() - 200) < 8
    assert images.decode(training.paths[0]).size == (48, 40)    # empty cells: all of the image


@pytest.mark.parametrize("cache", ["ram", "gpu"])
def test_a_cached_box_has_the_same_pixels(tmp_path, cache):
    rows = [row | {"x_1": 5, "y_1": 6, "x_2": 29, "y_2": 38.0} for row in trees.table_rows()]
    plain, cached = (select(tmp_path, rows, cache=how)["training"] for how in ("none", cache))
    first, second = (torch.cat([batch.images for batch in Loader(
        split, trees.options(tmp_path), "cpu").epoch(0)]) for split in (plain, cached))
    # The device's resize rounds once, PIL's twice.
    assert (first - second).abs().max() < (1e-6 if cache == "ram" else 0.06)


def test_other_boxes_are_other_images(tmp_path):
    digests = {select(tmp_path, [row | dict(zip(("x_1", "y_1", "x_2", "y_2"), box, strict=True))
                                 for row in trees.table_rows()])["training"].digest
               for box in ((0, 0, 9, 9), (0, 0, 9, 8), [""] * 4)}
    assert len(digests) == 3


# One change to a table of 24 rows -> what stands in the one line. Row 2 is the first.
TRAIN, TEST = 0, 12
BOX = {"x_1": 0, "y_1": 0, "x_2": 48, "y_2": 40}
WRONG = [
    (TEST, {"label": 1}, "row 14 of '{}': the label '1' is in validation, and in train by row 2"),
    (TRAIN, {"split": "validation"}, "row 2 of '{}': the label '1' is in validation, and in train"),
    (5, {"path": "pictures/./0_0.jpg"}, "row 7 of '{}': '{}/pictures/0_0.jpg' stands in row 2 of "),
    (TEST, {"path": "pictures/../pictures/0_0.jpg"}, "row 14 of '{}': '{}/pictures/0_0.jpg' st"),
    (3, {"label": ""}, "row 5 of '{}': label ''; accepted: a text"),
    (3, {"path": " "}, "row 5 of '{}': path ''; accepted: a text"),
    (3, {"split": "test"}, "row 5 of '{}': split 'test'; accepted: train, validation"),
    (3, {"split": ""}, "row 5 of '{}': split ''; accepted: train, validation"),
    (3, {"is_query": True, "is_gallery": ""}, "row 5 of '{}': is_query is True, but split is tra"),
    (15, {"is_query": "maybe", "is_gallery": True}, "row 17 of '{}': is_query 'maybe'; accepted: "),
    (15, {"is_query": "", "is_gallery": True}, "row 17 of '{}': is_query is empty, is_gallery is "),
    (15, {"is_query": False, "is_gallery": False}, "row 17 of '{}': neither query nor gallery; ac"),
    (15, {"is_query": True, "is_gallery": False}, "row 14 of '{}': is_query and is_gallery are em"),
    (7, BOX | {"x_2": 49}, "row 9 of '{}': the box ends at x_2=49 y_2=40, but '{}/pictures/1_3.jp"),
    (7, BOX | {"y_2": 41}, "y_2=41, but '{1}/pictures/1_3.jpg' has 48 x 40 pixels; accepted: x_2 "),
    (7, BOX | {"x_1": 48}, "row 9 of '{}': the box x_1=48 y_1=0 x_2=48 y_2=40; accepted: x_1 < x_"),
    (7, BOX | {"y_1": -1}, "row 9 of '{}': the box x_1=0 y_1=-1 x_2=48 y_2=40; accepted: x_1 < x_"),
    (7, BOX | {"x_1": ""}, "row 9 of '{}': the box x_1= y_1=0 x_2=48 y_2=40; accepted: four whole"),
    (7, BOX | {"x_1": 1.5}, "row 9 of '{}': the box x_1=1.5 y_1=0 x_2=48 y_2=40; accepted: four w"),
    (7, BOX | {"x_1": "inf"}, "row 9 of '{}': the box x_1=inf y_1=0 x_2=48 y_2=40; accepted: four"),
    (7, BOX | {"x_1": "left"}, "row 9 of '{}': the box x_1=left y_1=0 x_2=48 y_2=40; accepted: fo"),
]


@pytest.mark.parametrize(("row", "change", "message"), WRONG,
                         ids=[f"{row} {change}" for row, change, _ in WRONG])
def test_a_table_that_contradicts_itself_is_refused_with_the_row(tmp_path, row, change, message):
    rows = trees.table_rows()
    rows[row] = rows[row] | change
    with pytest.raises(UserError) as error:
        select(tmp_path, rows)
    folder = tmp_path / "mine"
    assert message.format(folder / "table.csv", folder) in str(error.value)
    assert str(error.value).startswith("--source_path: row ") and "\n" not in str(error.value)


TEXTS = [
    ("", "has no column path, label, split: ''; accepted: a CSV file with the columns path, lab"),
    ("path,label\na.png,1\n", "has no column split: 'path,label'; accepted: "),
    ("path;label;split\na.png;1;train\n", "has no column path, label, split: 'path;label;split'"),
    ("path,label,split,is_query\n", "has no column is_gallery"),
    ("path,label,split,x_1,x_2,y_1\n", "has no column y_2"),
    ("path,label,split,label\n", "has the column label more than once"),
    ("path,label,split\na.png,1\n", "row 2 of '{}': 2 cells below 3 columns; accepted: a cell for"),
    ("path,label,split\n\na.png,1,train,x\n", "row 3 of '{}': 4 cells below 3 columns"),
    ('path,label,split\n"a.png,1,train\n', "cannot read '{}': unexpected end of data; accepted: a"),
    ("path,label,split\na\0.png,1,train\n", "row 2 of '{}': path 'a\\x00.png'; accepted: a text"),
    ("path,label,split\n", "--dataset: no image in the training split of "),
]


@pytest.mark.parametrize(("text", "message"), TEXTS, ids=[text for text, _ in TEXTS])
def test_a_file_that_is_no_such_table_is_refused(tmp_path, text, message):
    path = tmp_path / "mine" / "table.csv"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError) as error:
        datasets.select("mine", trees.options(tmp_path))
    assert message.format(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_table_that_cannot_be_read_is_not_passed_over(tmp_path, kind):
    path = trees.class_folders(tmp_path / "mine") / "table.csv"
    path.mkdir() if kind == "folder" else path.symlink_to("nowhere.csv")
    with pytest.raises(UserError, match=r"^--source_path: cannot read '.*table\.csv': \w+.*; acc"):
        datasets.select("mine", trees.options(tmp_path))


def test_a_missing_file_is_refused_with_the_row_and_may_be_left_out(tmp_path, capsys):
    folder = trees.table(tmp_path / "mine", [row | BOX for row in trees.table_rows()])
    gone = folder / "pictures" / "3_1.jpg"
    gone.unlink()
    with pytest.raises(UserError) as error:
        datasets.select("mine", trees.options(tmp_path))
    assert str(error.value).startswith(
        f"--source_path: 1 of 24 listed images are missing, the first is {str(gone)!r} (row 15 of "
        f"{str(folder / 'table.csv')!r}), which does not exist; --check_data lists ")
    broken = folder / "pictures" / "0_0.jpg"
    broken.write_bytes(b"")
    splits = datasets.select("mine", trees.options(tmp_path, skip_broken_images=True))
    assert (len(splits["training"]), len(splits["testing"])) == (11, 11)
    said = capsys.readouterr().out
    assert f"left out {str(broken)!r}: it is empty" in said
    assert f"left out {str(gone)!r}: it does not exist" in said


def test_check_data_shows_every_fault_of_a_table(tmp_path, capsys):
    rows = trees.table_rows()
    rows[3]["label"], rows[9]["split"], rows[20]["path"] = "", "nowhere", rows[19]["path"]
    trees.table(tmp_path / "mine", rows)
    assert not check_data("mine", trees.options(tmp_path))
    said = capsys.readouterr().out
    assert all(f"row {row} of " in said for row in (5, 11, 22))
    assert "  training: 10 images, 3 classes" in said
    with pytest.raises(UserError, match=r"\(faults in all: 3, see --check_data\)$"):
        datasets.select("mine", trees.options(tmp_path))


def test_a_whole_table_passes_check_data(tmp_path, capsys):
    trees.table(tmp_path / "mine", trees.table_rows(queries=True))
    assert check_data("mine", trees.options(tmp_path))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  training: 12 images, 3 classes", "  testing_query: 6 images, 3 classes",
        "  testing_gallery: 6 images, 3 classes", "  24 of 24 images can be read"]


def test_validation_by_images_and_by_classes_where_there_are_queries(tmp_path):
    splits = select(tmp_path, trees.table_rows(), train_val_split=0.5)
    assert splits["training"].labels.tolist() == splits["validation"].labels.tolist() == [
        0, 0, 1, 1, 2, 2]
    splits = select(tmp_path, trees.table_rows(), val_folds=3, val_fold=2)
    assert splits["validation"].class_names == ["3"]
    splits = select(tmp_path, trees.table_rows(8, queries=True), train_val_split=0.5)
    assert splits["training"].class_names == ["2", "4"]
    assert splits["validation_query"].class_names == ["1", "3"]
    assert len(splits["validation_query"]) == len(splits["validation_gallery"]) == 4


# Tables as the converters of open-metric-learning write them, by their documentation.
def cub(_folder):
    """Pictures of all classes are divided: each label stands in both splits. Boxes."""
    return [{"label": c, "path": f"images/{c:03d}.Bird/{i}.jpg",
             "split": "train" if i < 2 else "validation", "is_query": "" if i < 2 else True,
             "is_gallery": "" if i < 2 else True, "x_1": 2, "x_2": 40, "y_1": 3, "y_2": 30}
            for c in (1, 2, 10) for i in range(4)]


def cars(_folder):
    """Likewise, with other paths."""
    return [row | {"path": f"cars_{row['split']}/{i:05d}.jpg"} for i, row in enumerate(cub(None))]


def sop(folder):
    """Absolute paths, further columns, a category."""
    return [{"image_id": 4 * c + i, "label": c, "super_class_id": 1 + c % 2,
             "path": folder / f"{kind}_final" / f"{c}_{i}.JPG",
             "split": "train" if c < 3 else "validation", "is_query": "" if c < 3 else True,
             "is_gallery": "" if c < 3 else True, "category": f"{kind}_final"}
            for c in range(6) for i in range(4) for kind in [("sofa", "lamp")[c % 2]]]


def in_shop(folder):
    """Queries and gallery, as an older pandas writes flags of which some are empty."""
    rows = [{"label": c, "path": folder / "img_highres" / f"WOMEN/Tees/id_{c:08d}/{i}.jpg",
             "split": "train" if c < 3 else "validation",
             "is_query": "" if c < 3 else ("1.0", "0.0")[i % 2],
             "is_gallery": "" if c < 3 else ("0.0", "1.0")[i % 2], "category": "Tees",
             "x_1": 1, "x_2": 47, "y_1": 2, "y_2": 39} for c in range(6) for i in range(4)]
    for row in rows[3::4]:
        row.update(dict.fromkeys(("x_1", "x_2", "y_1", "y_2"), ""))
    return rows


@pytest.mark.parametrize(("write", "counts", "said"), [
    (cub, {"training": (6, 3), "testing": (6, 3)}, "each of the 3 labels stands in train and in"),
    (cars, {"training": (6, 3), "testing": (6, 3)}, "each of the 3 labels stands in train and in"),
    (sop, {"training": (12, 3), "testing": (12, 3)}, ""),
    (in_shop, {"training": (12, 3), "testing_query": (6, 3), "testing_gallery": (6, 3)}, "")])
def test_tables_of_that_librarys_converters_work(tmp_path, capsys, write, counts, said):
    splits = select(tmp_path, write(tmp_path / "mine"))
    assert {name: (len(splits[name]), splits[name].n_classes) for name in counts} == counts
    assert said in capsys.readouterr().out
    path = splits["training"].paths[0]
    assert images.decode(path).size == {cub: (38, 27), cars: (38, 27), sop: (48, 40),
                                        in_shop: (46, 37)}[write]
    assert images.category_of(path) == {sop: "sofa_final", in_shop: "Tees"}.get(write)
    datasets.Identity(splits, {})       # classes known from the table itself are no mistake
