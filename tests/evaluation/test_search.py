"""The nearest images of a gallery, and its index, which follows the files."""

import os
import re
import shutil

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

import architectures
import metrics
from evaluation import embed, gallery, search
from tests import trees
from tests.tools import call
from utilities.checkpoint import TEMPORARY

EVALTYPE = "Combined_discriminative_shared-1-1"


@pytest.fixture
def place(checkpoint, tmp_path, monkeypatch):
    """A working directory with a gallery of 24 images; place(*argv) searches in it."""
    for i in range(24):
        trees.write(tmp_path / "gallery" / f"{i % 3}" / f"{i:02d}.jpg", i)
    trees.write(tmp_path / "query.png", 99)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        return call(search, "--checkpoint", checkpoint, "--kernels", 0, *argv)

    run.folder = tmp_path
    return run


def found(out: str) -> list[tuple[int, float, str]]:
    """(rank, distance, file) of each line of a neighbour."""
    lines = re.findall(r"^ +(\d+)  (\d\.\d+)  (.*)$", out, re.MULTILINE)
    return [(int(rank), float(distance), file) for rank, distance, file in lines]


def exact(checkpoint, queries, files, evaltype=EVALTYPE, k=10):
    """The same by the metrics' search."""
    network, options = architectures.load(checkpoint)
    options.evaltypes = [evaltype]
    rows = embed.embeddings(network, options, [*queries, *files])[evaltype]
    distances, indices = metrics.knn(rows[:len(queries)], rows[len(queries):], k)
    return distances, [[files[row] for row in of_query] for of_query in indices.tolist()]


def test_the_picture_leaves_alone_what_a_training_writes_in_the_same_folder(place):
    written_by_a_training = place.folder / TEMPORARY
    written_by_a_training.write_bytes(b"half a checkpoint")
    assert place("--gallery", "gallery", "--query", "query.png", "--out", "new.png") == 0
    assert written_by_a_training.read_bytes() == b"half a checkpoint"
    assert Image.open(place.folder / "new.png").size > (128, 128)


def test_neighbours_are_those_of_exact_search_and_the_query_is_left_out(place, checkpoint, capsys):
    inside = "gallery/1/04.jpg"
    assert place("--gallery", "gallery", "--query", "query.png", inside, "--k", 5) == 0
    lines = found(capsys.readouterr().out)
    files = sorted(f"gallery/{i % 3}/{i:02d}.jpg" for i in range(24))
    distances, names = exact(checkpoint, ["query.png", inside], files, k=6)
    assert [line[0] for line in lines] == [1, 2, 3, 4, 5] * 2
    assert [line[2] for line in lines] == names[0][:5] + names[1][1:]
    np.testing.assert_allclose([line[1] for line in lines],
                               [*distances[0, :5], *distances[1, 1:]], atol=1e-4)
    with Image.open("retrievals.png") as picture:
        assert picture.width > picture.height > 2 * 128


@pytest.mark.parametrize("evaltype", ["shared", "Sum_discriminative_shared-3-1"])
def test_another_evaltype_has_its_own_distances_and_index(place, checkpoint, evaltype, capsys):
    argv = ["--gallery", "gallery", "--query", "query.png", "--k", 3]
    assert place(*argv) == place(*argv, "--evaltype", evaltype) == 0
    lines = found(capsys.readouterr().out)[3:]
    files = sorted(f"gallery/{i % 3}/{i:02d}.jpg" for i in range(24))
    _, names = exact(checkpoint, ["query.png"], files, evaltype, k=3)
    assert [line[2] for line in lines] == names[0]
    assert len(list((place.folder / "cache").rglob("*.npz"))) == 2
    assert (place.folder / "retrievals_1.png").exists()


def test_the_index_follows_added_changed_and_deleted_files(place, checkpoint, capsys):
    argv = ["--gallery", "gallery", "--query", "query.png", "--k", 30]

    def counts():
        assert place(*argv) == 0
        out = capsys.readouterr().out
        return out.splitlines()[0].partition(", in ")[0], found(out)

    assert counts()[0] == "Index of 24 images: 0 kept, 24 new, 0 changed, 0 gone"
    index, = (place.folder / "cache").rglob("*.npz")
    written = index.stat().st_mtime_ns
    assert counts()[0] == "Index of 24 images: 24 kept, 0 new, 0 changed, 0 gone"
    assert index.stat().st_mtime_ns == written
    trees.write(place.folder / "gallery" / "new.jpg", 99)
    trees.write(place.folder / "gallery" / "0" / "00.jpg", 77)
    os.utime(place.folder / "gallery" / "0" / "00.jpg", ns=(1, 1))
    (place.folder / "gallery" / "1" / "01.jpg").unlink()
    title, lines = counts()
    assert title == "Index of 24 images: 22 kept, 1 new, 1 changed, 1 gone"
    files = sorted(map(str, (place.folder / "gallery").rglob("*.jpg")))
    distances, names = exact(checkpoint, [place.folder / "query.png"], files, k=24)
    assert [place.folder / file for _, _, file in lines] == [
        place.folder / name for name in names[0]]
    np.testing.assert_allclose([line[1] for line in lines], distances[0], atol=1e-4)
    for path in (place.folder / "gallery").rglob("*.jpg"):
        if path.name != "new.jpg":
            path.unlink()
    assert counts()[0] == "Index of 1 images: 1 kept, 0 new, 0 changed, 23 gone"


@pytest.mark.parametrize("other", ["time", "size"])
def test_a_change_shows_by_its_time_or_its_size(place, capsys, other):
    argv = ["--gallery", "gallery", "--query", "query.png"]
    assert place(*argv) == 0
    path = place.folder / "gallery" / "0" / "00.jpg"
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content + b"\0" if other == "size" else content)    # allowed in a JPEG
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (other == "time")))
    capsys.readouterr()
    assert place(*argv) == 0
    assert "23 kept, 0 new, 1 changed, 0 gone" in capsys.readouterr().out


def test_an_index_is_written_part_by_part(place, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "PART", 10)
    assert place("--gallery", "gallery", "--query", "query.png", "--k", 24) == 0
    whole = found(capsys.readouterr().out)
    shutil.rmtree(place.folder / "cache")
    monkeypatch.setattr(gallery, "PART", 1000)
    assert place("--gallery", "gallery", "--query", "query.png", "--k", 24) == 0
    assert [line[2] for line in found(capsys.readouterr().out)] == [line[2] for line in whole]


def test_another_network_has_an_index_of_its_own(place, run, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["model.last_linear.shared.bias"] += 0.1
    torch.save(state, place.folder / "other")
    argv = ["--gallery", "gallery", "--query", "query.png", "--kernels", 0]
    assert place(*argv) == call(search, "--checkpoint", place.folder / "other", *argv) == 0
    assert len(list((place.folder / "cache").rglob("*.npz"))) == 2


def test_a_compressed_index_says_what_it_loses(place, capsys):
    argv = ["--gallery", "gallery", "--query", "query.png", "--k", 24, "--index", "kept.npz"]
    assert place(*argv, "--factory", "Flat") == 0
    out = capsys.readouterr().out
    assert "--factory Flat: recall@10 of exact search 1.000, lost 0.000, on 24 images" in out
    names = [line[2] for line in found(out)]
    assert place(*argv, "--factory", "IVF4,Flat", "--nprobe", 4) == 0
    out = capsys.readouterr().out
    assert "lost 0.000" in out and [line[2] for line in found(out)] == names
    assert place(*argv, "--factory", "IVF4,Flat", "--nprobe", 1) == 0
    few = capsys.readouterr().out
    assert "lost 0.000" not in few and len(found(few)) < 24
    with np.load("kept.npz") as file:       # readable by faiss
        assert faiss.deserialize_index(file["exact"]).ntotal == 24
        assert faiss.deserialize_index(file["compressed"]).nlist == 4
    (place.folder / "gallery" / "0" / "00.jpg").unlink()
    assert place(*argv, "--factory", "IVF4,Flat", "--nprobe", 4) == 0
    assert len(found(capsys.readouterr().out)) == 23
    assert not (place.folder / "cache").exists()


def test_recall_leaves_out_the_image_itself():
    own, exact = np.array([0, 1]), np.array([[0, 4, 5], [6, 1, 7]])
    assert gallery.recall(own, exact, exact) == 1
    assert gallery.recall(own, exact, np.array([[0, 4, -1], [1, 8, 9]])) == 0.25


def test_a_damaged_index_is_rebuilt_in_the_cache_and_refused_elsewhere(place, capsys):
    argv = ["--gallery", "gallery", "--query", "query.png"]
    assert place(*argv) == 0
    index, = (place.folder / "cache").rglob("*.npz")
    index.write_bytes(index.read_bytes()[:1000])
    assert place(*argv) == 0
    assert "24 new" in capsys.readouterr().out.splitlines()[-13]
    with np.load(index) as file:
        arrays = dict(file)
    np.savez(index, **arrays | {"kind": np.array("gallery index of DiVA, version 0")})
    assert place(*argv) == 0
    assert "24 new" in capsys.readouterr().out.splitlines()[-13]
    (place.folder / "mine.npz").write_bytes(b"not an index")
    assert place(*argv, "--index", "mine.npz") == 2
    assert "'mine.npz' is no index of a gallery" in capsys.readouterr().err
    assert (place.folder / "mine.npz").read_bytes() == b"not an index"


def test_an_index_of_another_gallery_or_evaltype_is_kept(place, capsys):
    argv = ["--query", "query.png", "--index", "kept.npz"]
    assert place("--gallery", "gallery", *argv) == 0
    before = (place.folder / "kept.npz").read_bytes()
    trees.write(place.folder / "other" / "a.jpg", 1)
    assert place("--gallery", "other", *argv) == 2
    assert "is of another gallery" in capsys.readouterr().err
    assert place("--gallery", "gallery", *argv, "--evaltype", "shared") == 2
    assert "is of another evaltype" in capsys.readouterr().err
    assert (place.folder / "kept.npz").read_bytes() == before


def test_the_distance_of_a_pair(place, checkpoint, capsys):
    pair = ["gallery/0/00.jpg", "query.png"]
    assert place("--pair", *pair, "--evaltype", "shared") == 0
    network, options = architectures.load(checkpoint)
    one, other = embed.embeddings(network, options, pair)["shared"]
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(
        float((one - other).norm()), abs=1e-4)
    assert place("--pair", "query.png", "query.png") == 0
    assert capsys.readouterr().out.startswith("0.0000  ")
    assert not (place.folder / "cache").exists() and not list(place.folder.glob("*.png"))[1:]


def test_a_copy_of_the_query_is_its_neighbour_and_a_link_to_it_is_not(place, capsys):
    shutil.copy("gallery/0/00.jpg", "gallery/copy.jpg")
    os.link("gallery/0/00.jpg", "outside.jpg")
    assert place("--gallery", "gallery", "--query", "outside.jpg", "--k", 1) == 0
    assert found(capsys.readouterr().out) == [(1, 0.0, "gallery/copy.jpg")]


def test_a_broken_image_of_the_gallery_is_named_or_left_out(place, capsys):
    (place.folder / "gallery" / "bad.jpg").write_bytes(b"")
    argv = ["--gallery", "gallery", "--query", "query.png"]
    assert place(*argv) == 2
    assert "--gallery: cannot read the image 'gallery/bad.jpg' (it is empty)" in (
        capsys.readouterr().err)
    assert place(*argv, "--skip_broken_images") == 0
    assert "Index of 24 images" in capsys.readouterr().out


def test_where_every_image_is_broken_nothing_is_indexed(place, capsys):
    for path in (place.folder / "gallery").rglob("*.jpg"):
        path.write_bytes(b"")
    assert place("--gallery", "gallery", "--query", "query.png", "--skip_broken_images") == 2
    assert capsys.readouterr().err.endswith("error: --gallery: no image is left; accepted: one or "
                                            "more that can be read\n")
    assert not list((place.folder / "cache").rglob("*.npz"))


def test_names_that_are_no_utf_8_are_found(place, checkpoint, capfd):
    shutil.copy(b"gallery/0/00.jpg", b"gallery/caf\xe9.jpg")
    argv = ["--gallery", "gallery", "--query", "gallery/0/00.jpg", "--k", 1, "--index", "i.npz"]
    assert place(*argv) == place(*argv) == 0
    assert "24 kept" not in capfd.readouterr().out
    assert call(embed, "--checkpoint", checkpoint, "--images", "gallery", "--out", "x.npz",
                "--kernels", 0) == 0
    with np.load("x.npz") as file:
        assert "caf\udce9.jpg" in file["names"].tolist()
