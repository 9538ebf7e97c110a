import os

import pytest

from utilities.files import fault, is_file, is_folder

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def test_what_is_there_has_no_fault(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert fault(tmp_path) is None and fault(tmp_path, "folder") is None
    assert fault(tmp_path / "link") is None and fault(str(tmp_path / "file"), "file") is None
    assert fault(tmp_path, "file") == "is no file"
    assert fault(tmp_path / "link", "folder") == "is no folder"


def test_every_answer_is_in_words(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, words in {"missing": "does not exist", "dangling": "does not exist",
                        "circle": "cannot be reached (Too many levels of symbolic links)",
                        "x" * 300: "cannot be reached (File name too long)",
                        "file/below": "cannot be reached (Not a directory)"}.items():
        for kind in (None, "file", "folder"):
            assert fault(tmp_path / name, kind) == words


@pytest.mark.skipif(ROOT, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert fault(tmp_path / "closed" / "file") == "cannot be reached (Permission denied)"


def test_an_entry_that_leads_nowhere_is_neither_folder_nor_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("circle", "dangling"):
        (tmp_path / name).symlink_to(name + "." * (name == "dangling"))
    assert {entry.name for entry in os.scandir(tmp_path) if is_folder(entry)} == {"folder", "link"}
    assert not any(map(is_file, os.scandir(tmp_path)))
    (tmp_path / "file").touch()
    (tmp_path / "second link").symlink_to("file")
    assert {entry.name for entry in os.scandir(tmp_path) if is_file(entry)} == {
        "file", "second link"}
