import pytest

import datasets
from tests import trees
from utilities.errors import UserError


def test_the_lists_decide_what_trains(tmp_path):
    trees.online_products(tmp_path / "online_products", n_classes=6, n_images=4)
    splits = datasets.select("online_products", trees.options(tmp_path))
    assert splits["training"].class_names == ["1", "2", "3"]
    assert splits["testing"].class_names == ["4", "5", "6"]
    assert splits["testing"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits["testing"].paths[0].endswith("sofa_final/111000000003_0.JPG")
    assert splits["testing"][0].images.shape == (3, 24, 24)


def test_rows_of_hidden_files_are_skipped(tmp_path):
    folder = trees.online_products(tmp_path / "online_products")
    with open(folder / "Info_Files" / "Ebay_train.txt", "a") as table:
        table.write("99 1 1 bicycle_final/._111000000000_0.JPG\n")
    assert len(datasets.select("online_products", trees.options(tmp_path))["training"]) == 12


def test_class_ids_are_ordered_as_numbers(tmp_path):
    folder = trees.online_products(tmp_path / "online_products", n_classes=22, n_images=1)
    names = datasets.select("online_products", trees.options(tmp_path))["training"].class_names
    assert names == [str(number) for number in range(1, 12)]
    assert folder.exists()


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "Info_Files" / "Ebay_test.txt").unlink(),
     "Ebay_test.txt' does not exist; --dataset online_products is expected as"),
    (lambda folder: (folder / "images" / "sofa_final" / "111000000001_2.JPG").unlink(),
     "1 of 12 listed images are missing, the first is "),
    (lambda folder: (folder / "Info_Files" / "Ebay_train.txt").write_text("h\n1 2 3\n"),
     "line 2 of "),
])
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    damage(trees.online_products(tmp_path / "online_products"))
    with pytest.raises(UserError, match="--source_path: .*" + message):
        datasets.select("online_products", trees.options(tmp_path))
