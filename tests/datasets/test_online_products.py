import pytest

import datasets
from tests import trees
from utilities.errors import UserError

HEADER = "image_id class_id super_class_id path\n"


def rewrite(folder, old, new):
    """Replaces `old`, None for all, in the list of what trains."""
    path = folder / "Info_Files" / "Ebay_train.txt"
    text = path.read_text()
    assert old is None or text.count(old) == 1
    path.write_text(new if old is None else text.replace(old, new))


def test_the_lists_decide_what_trains(tmp_path):
    trees.online_products(tmp_path / "online_products", n_classes=6, n_images=4)
    splits = datasets.select("online_products", trees.options(tmp_path))
    assert splits["training"].class_names == ["1", "2", "3"]
    assert splits["testing"].class_names == ["4", "5", "6"]
    assert splits["testing"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits["testing"].paths[0].endswith("sofa_final/111000000003_0.JPG")
    assert splits["testing"][0, 0].images.shape == (3, 24, 24)


def test_rows_of_hidden_files_are_skipped(tmp_path):
    folder = trees.online_products(tmp_path / "online_products")
    with open(folder / "Info_Files" / "Ebay_train.txt", "a") as table:
        table.write("99 1 1 bicycle_final/._111000000000_0.JPG\n")
    assert len(datasets.select("online_products", trees.options(tmp_path))["training"]) == 12


def test_a_list_may_have_a_byte_order_mark_other_line_ends_and_several_blanks(tmp_path):
    folder = trees.online_products(tmp_path / "online_products")
    wanted = datasets.select("online_products", trees.options(tmp_path))["training"].paths
    path = folder / "Info_Files" / "Ebay_train.txt"
    text = path.read_text().replace(" ", " \t ").replace("\n", "\r\n") + "\r\n"
    path.write_bytes(text.encode("utf-8-sig"))
    splits = datasets.select("online_products", trees.options(tmp_path))
    assert splits["training"].paths == wanted and len(wanted) == 12


def test_a_list_may_name_files_that_are_no_utf_8(tmp_path):
    folder = trees.online_products(tmp_path / "online_products")
    path = folder / "Info_Files" / "Ebay_train.txt"
    name = "111000000000_0.JPG"
    path.write_bytes(path.read_bytes().replace(name.encode(), b"\xe9" + name.encode()))
    (folder / "images" / "bicycle_final" / name).rename(
        folder / "images" / "bicycle_final" / f"\udce9{name}")
    training = datasets.select("online_products", trees.options(tmp_path))["training"]
    assert training.paths[0].endswith(f"\udce9{name}")
    assert training[0, 0].images.shape == (3, 24, 24)


def test_class_ids_are_ordered_as_numbers(tmp_path):
    folder = trees.online_products(tmp_path / "online_products", n_classes=22, n_images=1)
    names = datasets.select("online_products", trees.options(tmp_path))["training"].class_names
    assert names == [str(number) for number in range(1, 12)]
    assert folder.exists()


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "Info_Files" / "Ebay_test.txt").unlink(),
     "Ebay_test.txt' does not exist; --dataset online_products is expected as"),
    (lambda folder: (folder / "images" / "sofa_final" / "111000000001_2.JPG").unlink(),
     "1 of 24 listed images are missing, the first is '.*', which does not exist; --check_data"),
    (lambda folder: rewrite(folder, "1 1 1 b", "1 1 b"), "line 2 of .*Ebay_train.txt' has 3 col"),
    (lambda folder: rewrite(folder, "5 2 2 s", "5 2b 2 s"),
     "class_id '2b' in line 6 of .*Ebay_train.txt'; expected: a whole number"),
    (lambda folder: rewrite(folder, "\n2 1 1 b", "\n1 1 1 bicycle_final/111000000000_0.JPG"
                            "\n2 1 1 b"),
     "'bicycle_final/111000000000_0.JPG' stands in line 2 of .*Ebay_train.txt' and in line 3 of "
     ".*Ebay_train.txt'; accepted: each path once, in one split$"),
    (lambda folder: rewrite(folder, "\n2 1 1 b", "\n9 1 1 sofa_final/../sofa_final/"
                            "111000000003_1.JPG\n2 1 1 b"),
     "'sofa_final/111000000003_1.JPG' stands in line 3 of .*Ebay_train.txt' and in line 3 of "
     ".*Ebay_test.txt'; accepted: each path once, in one split$"),
    (lambda folder: rewrite(folder, HEADER, ""),
     "line 1 of .*Ebay_train.txt' is '1 1 1 bicycle_final/111000000000_0.JPG'; expected: "
     "'image_id class_id super_class_id path'$"),
    (lambda folder: rewrite(folder, None, ""), "line 1 of .*Ebay_train.txt' is ''; expected: 'im"),
])
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    damage(trees.online_products(tmp_path / "online_products"))
    with pytest.raises(UserError, match="--source_path: .*" + message):
        datasets.select("online_products", trees.options(tmp_path))
