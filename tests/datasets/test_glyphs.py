import unicodedata

import numpy as np
import pytest
from PIL import Image

import datasets
from datasets import glyphs
from tests import trees
from utilities.errors import UserError

FEW = "AБΩ7@"


@pytest.fixture
def few():
    """A set of five characters, three images each."""
    def render_few(folder, **given):
        glyphs.render_set(folder, **({"characters": FEW, "images_per_class": 3} | given))
    return render_few


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_the_same_seed_gives_the_same_bytes(tmp_path, few):
    few(tmp_path / "a")
    few(tmp_path / "b")
    few(tmp_path / "c", seed=1)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert len(a) == 15 and a == b
    assert set(a.values()).isdisjoint(c.values())
    assert len(set(a.values())) == 15


def test_every_character_is_in_every_font_and_has_a_name_of_its_own():
    characters = glyphs.CHARACTERS
    assert len(set(characters)) == len(characters) == 240
    names = {unicodedata.name(character).lower() for character in characters}
    assert len(names) == 240
    for font in glyphs.load_fonts():
        missing = np.asarray(glyphs.stencil("\uffff", font))
        for character in characters:
            drawn = np.asarray(glyphs.stencil(character, font))
            assert drawn.max() == 255 and not np.array_equal(drawn, missing)


def test_first_use_renders_and_reads_as_a_users_data(tmp_path, monkeypatch, few):
    render_set = glyphs.render_set
    monkeypatch.setattr(glyphs, "render_set", lambda folder: render_set(folder, FEW, 3))
    splits = datasets.select("glyphs", trees.options(tmp_path / "new"))
    assert (len(splits["training"]), len(splits["testing"])) == (6, 9)
    monkeypatch.setattr(glyphs, "render_set", lambda folder: pytest.fail("rendered again"))
    assert datasets.select("glyphs", trees.options(tmp_path / "new"))["testing"].n_classes == 3
    assert [path.name for path in (tmp_path / "new" / "glyphs").iterdir()] == ["images"]


def test_images_of_a_character_vary_and_it_stands_out():
    fonts = glyphs.load_fonts()
    images = [glyphs.render("A", fonts, np.random.default_rng(seed)) for seed in range(20)]
    assert len({image.size for image in images}) > 5
    assert all(glyphs.SIDES[0] <= image.width == image.height <= glyphs.SIDES[1]
               for image in images)
    small = np.stack([np.asarray(image.resize((16, 16))).astype(int) for image in images])
    assert small.std(0).mean() > 30
    assert np.mean([np.asarray(image.convert("L")).std() > 8 for image in images]) == 1


def test_a_killed_first_use_leaves_no_half_set(tmp_path, monkeypatch, few):
    saved, save = [], Image.Image.save

    def stop_at_the_eighth(image, *given, **options):
        saved.append(image)
        if len(saved) == 8:
            raise KeyboardInterrupt
        save(image, *given, **options)

    monkeypatch.setattr(Image.Image, "save", stop_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        few(tmp_path / "glyphs")
    assert list((tmp_path / "glyphs").iterdir()) == []
    few(tmp_path / "glyphs")
    assert len(contents(tmp_path / "glyphs")) == 15


def test_the_set_of_a_faster_process_stays(tmp_path, few):
    few(tmp_path / "glyphs")
    before = contents(tmp_path / "glyphs")
    few(tmp_path / "glyphs", seed=1)
    assert contents(tmp_path / "glyphs") == before
    assert [path.name for path in (tmp_path / "glyphs").iterdir()] == ["images"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, few):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--source_path: cannot write the glyphs into '.*': Not "
                                        r"a directory; accepted: a folder that you may write"):
        few(tmp_path / "file" / "glyphs")
