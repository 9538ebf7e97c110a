"""Official archives become datasets, complete or not at all."""

import hashlib
import http.server
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

import datasets
from datasets import prepare
from tests import archives, trees
from tests.test_layers import ROOT as REPOSITORY
from tests.tools import call
from tests.utilities.test_files import ROOT
from utilities.errors import UserError

FOUND = {
    "cub200": "images/008.Bird_8/11.jpg", "cars196": "images/003.Make 2 S-V 2",
    "online_products": "images/lamp_final/112_4.JPG",
    "in-shop": "img/WOMEN/Tees/id_00000008/gallery_5.jpg"}


@pytest.fixture
def few(monkeypatch):
    """Archives of few images are the published ones."""
    for name in archives.FEW:
        monkeypatch.setitem(datasets.PUBLISHED, name, archives.counts(name))


def main(*words) -> int:
    return call(prepare, *words)


def run(tmp_path, name, files, *further) -> int:
    return main(name, "--source_path", tmp_path / "data", "--any_checksum", *further,
                *(("--archive", *files) if files else ()))


def left(tmp_path) -> list[str]:
    """What lies in the folder for datasets."""
    return sorted(os.listdir(tmp_path / "data")) if (tmp_path / "data").exists() else []


def refused(tmp_path, capsys, name, files, status=2, *further) -> str:
    """The one line of a preparation that leaves nothing."""
    assert run(tmp_path, name, files, *further) == status
    told = capsys.readouterr().err
    assert told.startswith("datasets.prepare: error: ") and told.count("\n") == 1
    assert left(tmp_path) == []
    return told


@pytest.mark.parametrize("name", archives.FEW)
def test_archives_in_the_official_format_become_a_dataset(tmp_path, capsys, few, name):
    files = archives.build(name, tmp_path)
    assert run(tmp_path, name, files[::-1]) == 0    # in any order
    assert left(tmp_path) == [name]
    folder = tmp_path / "data" / name
    assert (folder / FOUND[name]).exists()
    said = capsys.readouterr().out
    assert f"Prepared {str(folder)!r}." in said and "24 of 24 images can be read" in said
    assert said.count("as published") == len(archives.FEW[name])
    splits = datasets.select(name, trees.options(tmp_path / "data"))
    assert splits["training"].n_classes == splits["testing"].n_classes == 4
    assert not [path for path in folder.rglob("*") if path.name.startswith((".", "__"))]


def test_cars_are_sorted_into_the_classes_of_their_annotations(tmp_path, few):
    files = archives.build("cars196", tmp_path)
    run(tmp_path, "cars196", files)
    folders = prepare.car_classes(files[1])
    found = {f"car_ims/{path.name}": path.parent.name
             for path in (tmp_path / "data" / "cars196").rglob("*.jpg")}
    assert found == folders and len(found) == 24
    assert set(folders.values()) == {f"{c + 1:03d}.Make {c} S-V {c % 3}" for c in range(8)}


def test_a_checksum_is_compared_and_named(tmp_path, capsys):
    file, = archives.build("cub200", tmp_path)
    found = hashlib.md5(file.read_bytes()).hexdigest()
    assert main("cub200", "--source_path", tmp_path / "data", "--archive", file) == 2
    assert capsys.readouterr().err == (
        f"datasets.prepare: error: --archive: {str(file)!r} has the MD5 checksum "
        f"{found}, the official CUB_200_2011.tgz has 97eceeb196236b17998738112f37df78; accepted: "
        "the official file, or --any_checksum to use another\n")
    assert left(tmp_path) == []
    prepare.check_sum(file, prepare.Archive(file.name, found), any_checksum=False)
    with pytest.raises(UserError):
        prepare.check_sum(file, prepare.Archive(file.name, "0" * 32), any_checksum=False)


def test_other_numbers_than_the_published_ones_are_refused(tmp_path, capsys):
    told = refused(tmp_path, capsys, "in-shop", archives.build("in-shop", tmp_path))
    assert "are not complete: training 12 images, 4 classes; published are 25,882 and 3,997" in told


@pytest.mark.parametrize("name", ["cub200", "cars196", "online_products", "in-shop"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.97])
def test_a_truncated_archive_is_refused(tmp_path, capsys, few, name, share):
    file, *others = archives.build(name, tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:int(share * len(content))])
    told = refused(tmp_path, capsys, name, [file, *others])
    assert f"cannot read {str(file)!r}, which is damaged, cut short or no archive" in told


@pytest.mark.parametrize(("name", "other"), [("cub200", "cars196"), ("cars196", "cub200"),
                                             ("online_products", "in-shop"),
                                             ("in-shop", "online_products")])
def test_the_archive_of_another_dataset_is_refused(tmp_path, capsys, few, name, other):
    own, foreign = (archives.build(each, tmp_path / each) for each in (name, other))
    told = refused(tmp_path, capsys, name, [foreign[0], *own[1:]])
    assert f"--archive: {str(foreign[0])!r} holds no " in told


def with_entry(tmp_path, name, kind, write):
    """The archive of `name` with another entry, made by `write(archive)`."""
    file, *others = archives.build(name, tmp_path)
    if kind == "zip":
        with zipfile.ZipFile(file, "a") as whole:
            write(whole)
    else:
        with tarfile.open(file) as whole:
            files = [(entry.name, whole.extractfile(entry).read()) for entry in whole]
        with tarfile.open(file, "w:gz") as whole:
            for path, content in files:
                add(whole, path, content)
            write(whole)
    return [file, *others]


def add(whole, path, content=b"", **attributes):
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    for key, value in attributes.items():
        setattr(entry, key, value)
    whole.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("path", ["../climbed.jpg", "CUB_200_2011/images/001.Bird/../../../x.jpg",
                                  "/climbed.jpg", "CUB_200_2011/images/001.Bird\\..\\x.jpg"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_path_that_leads_out_is_refused(tmp_path, capsys, few, path, kind):
    name = {"tar": "cub200", "zip": "online_products"}[kind]
    files = with_entry(tmp_path, name, kind, lambda whole: (
        add(whole, path, b"x") if kind == "tar" else whole.writestr(path, b"x")))
    told = refused(tmp_path, capsys, name, files)
    assert f"is not safe: the path {path!r} leads out of the folder" in told
    assert not [found for found in tmp_path.rglob("*") if found.name in ("climbed.jpg", "x.jpg")]


@pytest.mark.parametrize(("kind", "what"), [
    (tarfile.SYMTYPE, "is a link"), (tarfile.LNKTYPE, "is a link"), ("zip", "is a link"),
    (tarfile.FIFOTYPE, "is no file"), (tarfile.CHRTYPE, "is no file")])
def test_links_and_devices_are_refused(tmp_path, capsys, few, kind, what):
    path = "Stanford_Online_Products/sofa_final"    # a folder of the layout, elsewhere
    if kind == "zip":
        entry = zipfile.ZipInfo(path)
        entry.external_attr = 0o120777 << 16
        files = with_entry(tmp_path, "online_products", "zip",
                           lambda whole: whole.writestr(entry, "/tmp"))
        told = refused(tmp_path, capsys, "online_products", files)
    else:
        files = with_entry(tmp_path, "cub200", "tar",
                           lambda whole: add(whole, path, type=kind, linkname="/tmp"))
        told = refused(tmp_path, capsys, "cub200", files)
    assert f"is not safe: {path!r} {what}; accepted: the official archive" in told


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_bomb_of_zeros_is_refused(tmp_path, capsys, few, kind):
    name, path = {"tar": ("cub200", "CUB_200_2011/images/009.Bird/1.jpg"),
                  "zip": ("online_products", "Stanford_Online_Products/sofa_final/9.JPG")}[kind]
    zeros = bytes(2**26 + 1)
    files = with_entry(tmp_path, name, kind, lambda whole: (
        add(whole, path, zeros) if kind == "tar" else whole.writestr(path, zeros, 8)))
    assert files[0].stat().st_size < 2**20
    told = refused(tmp_path, capsys, name, files)
    assert f"is not safe: {path!r} would have 67,108,865 bytes" in told


def test_a_bomb_beside_the_images_is_refused_before_it_is_read(tmp_path, capsys, few):
    """Its size stands in the header of a file of 20 TB that is not needed."""
    file, = archives.build("cub200", tmp_path)
    entry = tarfile.TarInfo("CUB_200_2011/attributes.bin")
    entry.size = 20 * 2**40
    with tarfile.open(file, "w:gz") as whole:
        whole.addfile(entry)
    told = refused(tmp_path, capsys, "cub200", [file])
    assert "holds more than 16 GB" in told


def test_two_files_for_one_place_are_refused(tmp_path, capsys, few):
    path = "CUB_200_2011/images/001.Bird_1/0.jpg"
    files = with_entry(tmp_path, "cub200", "tar", lambda whole: add(whole, path, b"x"))
    assert "two files belong to the place" in refused(tmp_path, capsys, "cub200", files)


def test_an_encrypted_archive_is_refused(tmp_path, capsys, few):
    file, = archives.build("online_products", tmp_path)
    content = bytearray(file.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):       # the flag in both of its headers
        content[content.index(mark) + at] |= 1
    file.write_bytes(content)
    assert "is encrypted" in refused(tmp_path, capsys, "online_products", [file])


def test_damaged_annotations_are_refused(tmp_path, capsys, few):
    images, annotations = archives.build("cars196", tmp_path)
    for content in (b"", b"text", annotations.read_bytes()[:900]):
        annotations.write_bytes(content)
        told = refused(tmp_path, capsys, "cars196", [images, annotations])
        assert f"cannot read the annotations in {str(annotations)!r} (" in told


def test_a_file_that_a_list_names_and_the_archive_lacks_is_named(tmp_path, capsys, few):
    images, partition = archives.build("in-shop", tmp_path)
    partition.write_text(partition.read_text().replace("query_3.jpg", "other.jpg"))
    told = refused(tmp_path, capsys, "in-shop", [images, partition])
    assert "1 of 24 listed images are missing" in told and ".unfinished" not in told


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path, capsys, few):
    """A limit of the size of files stands for it: one picture is larger."""
    files = with_entry(tmp_path, "cub200", "tar", lambda whole: add(
        whole, "CUB_200_2011/images/008.Bird_8/99.jpg", os.urandom(200_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        told = refused(tmp_path, capsys, "cub200", files, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search(r"error: cannot write '.*99\.jpg': File too large", told)


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_folders_and_files_without_permission_are_refused(tmp_path, capsys, few):
    file, = archives.build("cub200", tmp_path)
    (tmp_path / "data").mkdir(mode=0o500)
    assert "Permission denied" in refused(tmp_path, capsys, "cub200", [file])
    (tmp_path / "data").chmod(0o700)
    file.chmod(0)
    assert f"cannot read {str(file)!r} (Permission denied)" in refused(
        tmp_path, capsys, "cub200", [file])


def test_nothing_is_overwritten(tmp_path, capsys, few):
    file, = archives.build("cub200", tmp_path)
    mine = tmp_path / "data" / "cub200"
    mine.mkdir(parents=True)
    (mine / "note").touch()
    assert run(tmp_path, "cub200", [file]) == 2
    assert "is there and not an empty folder, and nothing is overwritten" in capsys.readouterr().err
    assert os.listdir(mine) == ["note"] and left(tmp_path) == ["cub200"]
    (mine / "note").unlink()
    assert run(tmp_path, "cub200", [file]) == 0


def test_what_a_killed_preparation_left_is_named(tmp_path, capsys, few):
    file, = archives.build("cub200", tmp_path)
    (tmp_path / "data" / ".cub200.unfinished").mkdir(parents=True)
    assert run(tmp_path, "cub200", [file]) == 2
    assert "delete it if none is at work" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    ([], "dataset: not given; accepted: the dataset to prepare"),
    (["mnist"], "dataset: unknown 'mnist'; accepted: cub200, cars196, "),
    (["cub200"], "--source_path: not given; accepted: folder for datasets, in"),
    (["cub200", "--source_path", ""], "--source_path: '' given; accepted: a path"),
    (["cub200", "--source_path", "{}"], "--archive: CUB_200_2011.tgz not given; accepted: --d"),
    (["in-shop", "--source_path", "{}"], "--archive: img.zip, list_eval_partition.txt not given; "),
    (["in-shop", "--source_path", "{}", "--download"], "--download: img.zip has no address; accepte"
     "d: visit https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html and give the "
     "files by --archive img.zip list_eval_partition.txt"),
    (["cub200", "--source_path", "{}", "--archive", "{}/no.tgz"], "--archive: '{}/no.tgz' does no"),
    (["cub200", "--source_path", "{}", "--archive", "{}"], "--archive: '{}' is no file; accepted"),
    (["cub200", "--source_path", "{}", "--archive", "{}/a.zip"], "--archive: '{}/a.zip' is no file "
     "of cub200; accepted: CUB_200_2011.tgz"),
    (["cub200", "--source_path", "{}", "--archive", "{}/a.tgz", "{}/b.tar.gz"], "--archive: '{}/b.t"
     "ar.gz' and '{}/a.tgz' given for CUB_200_2011.tgz"),
    (["cub200", "--source_path", "{}", "--mirror", "x"], "--mirror: 'x' given without --download"),
    (["cub200", "--source_path", "{}/a.zip", "--archive", "{}/a.tgz", "--any_checksum"],
     "--source_path: '{}/a.zip' is "),
])
def test_wrong_commands_end_with_one_line(tmp_path, capsys, words, message):
    for name in ("a.zip", "a.tgz", "b.tar.gz"):
        (tmp_path / name).touch()
    assert main(*(word.replace("{}", str(tmp_path)) for word in words)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message.replace("{}", str(tmp_path)) in told
    assert sorted(os.listdir(tmp_path)) == ["a.tgz", "a.zip", "b.tar.gz"]


class Server:
    """Serves the files of a folder; the first `breaks` answers to a name end in the middle."""

    def __init__(self, folder: Path, *, breaks=1, ranges=True):
        self.asked = asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
                asked.append((name, wanted))
                if not (folder / name).exists():
                    return self.send_error(404)
                content, begin = (folder / name).read_bytes(), 0
                if wanted and ranges:
                    begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                    if begin >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(content)}")
                        return self.end_headers()
                self.send_response(206 if wanted and ranges else 200)
                self.send_header("Content-Length", str(len(content) - begin))
                self.end_headers()
                end = len(content)
                if sum(name == other for other, _ in asked) <= breaks:
                    end = begin + max(1, (end - begin) // 2)
                self.wfile.write(content[begin:end])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/files/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("name", archives.FEW)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(tmp_path, capsys, few, name, ranges):
    files = archives.build(name, tmp_path / "served")
    with Server(tmp_path / "served", ranges=ranges) as server:
        assert run(tmp_path, name, [], "--download", "--mirror", server.address) == 0
    for file in files:
        assert (tmp_path / "data" / file.name).read_bytes() == file.read_bytes()
        first, second = [wanted for asked, wanted in server.asked if asked == file.name]
        assert first is None and second == f"bytes={file.stat().st_size // 2}-"
    assert not list((tmp_path / "data").glob("*.part"))
    # What is there is not fetched again.
    shutil.rmtree(tmp_path / "data" / name)
    assert run(tmp_path, name, [], "--download", "--mirror", server.address) == 0


def test_only_what_is_not_given_is_downloaded(tmp_path, few):
    images, annotations = archives.build("cars196", tmp_path / "served")
    with Server(tmp_path / "served") as server:
        assert run(tmp_path, "cars196", [annotations], "--download", "--mirror",
                   server.address) == 0
    assert {name for name, _ in server.asked} == {images.name}


@pytest.mark.parametrize(("part", "wanted"), [("whole", ["bytes={n}-"]),
                                              ("longer", ["bytes={more}-", None])])
def test_a_part_of_an_earlier_download_is_used_or_begun_anew(tmp_path, few, part, wanted):
    file, = archives.build("cub200", tmp_path / "served")
    content = file.read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{file.name}.part").write_bytes(content + b"more" * (part == "longer"))
    with Server(tmp_path / "served", breaks=0) as server:
        assert run(tmp_path, "cub200", [], "--download", "--mirror", server.address) == 0
    sizes = {"n": len(content), "more": len(content) + 4}
    assert [asked for _, asked in server.asked] == [
        text and text.format(**sizes) for text in wanted]


@pytest.mark.parametrize("why", ["Not Found", "Connection refused"])
def test_where_an_address_does_not_answer_the_page_and_the_flag_are_named(tmp_path, capsys, why):
    with Server(tmp_path) as server:
        words = ("cub200", [], "--download", "--mirror", server.address)
        if why == "Not Found":
            assert run(tmp_path, *words) == 1
    if why != "Not Found":
        assert run(tmp_path, *words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and why in told and told.startswith(
        f"datasets.prepare: error: cannot download {server.address}CUB_200_2011.tgz (")
    assert told.endswith("; visit https://data.caltech.edu/records/65de6-vp158 and give the file "
                         "by --archive CUB_200_2011.tgz\n")
    assert left(tmp_path) == []


def test_a_wrong_download_is_refused_by_its_checksum_and_kept(tmp_path, capsys):
    archives.build("cub200", tmp_path / "served")
    with Server(tmp_path / "served") as server:
        assert main("cub200", "--source_path", tmp_path / "data", "--download", "--mirror",
                    server.address) == 2
    assert "has the MD5 checksum" in capsys.readouterr().err
    assert left(tmp_path) == ["CUB_200_2011.tgz"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_done(tmp_path, signum):
    """In the middle of an archive that takes seconds to unpack."""
    content = archives.jpegs()[0]
    file = archives.tar(tmp_path / "CUB_200_2011.tgz", (
        (f"CUB_200_2011/images/{i % 200:03d}.Bird/{i}.jpg", content) for i in range(15_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "datasets.prepare", "cub200", "--source_path", tmp_path / "data",
         "--archive", file, "--any_checksum"], cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    unfinished = tmp_path / "data" / ".cub200.unfinished" / "cub200" / "images"
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signum)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signum and left(tmp_path) == []
    assert told.startswith(f"Stopped by {signum.name}: ") and told.count("\n") == 1


def test_help_is_printed_without_torch():
    code = ("import sys; from datasets import prepare; from utilities import tool\n"
            "try: tool.read_arguments(prepare.PROGRAM, prepare.DESCRIPTION, prepare.FLAGS, "
            "['--help'])\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(flag.name in done.stdout for flag in prepare.FLAGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", archives.FULL)
def test_from_archives_to_a_trained_epoch_by_the_readmes_commands(tmp_path, name):
    """With as many images and classes as are published."""
    files = archives.build(name, tmp_path / "archives", full=True)
    data = str(tmp_path / "data")
    lines = [line for line in (REPOSITORY / "README.md").read_text().splitlines()
             if line.startswith("python -m datasets.prepare ")]
    assert f"python -m datasets.prepare {name} --source_path <folder> --archive " + " ".join(
        archives.NAMES[name]) in lines
    train = ["diva_main.py", "--dataset", name, "--arch", "shufflenet_v2_x0_5_normalize",
             "--not_pretrained", "--crop_size", "32", "--n_epochs", "1", "--embed_dim", "8",
             "--device", "cpu", "--kernels", "0", "--evaluation_metrics", "e_recall@1",
             "--save_path", str(tmp_path / "runs"), "--plots", "none"]
    prepare_ = ["-m", "datasets.prepare", name, "--any_checksum", "--archive", *map(str, files)]
    # An epoch of online_products takes minutes; its layout is trained on elsewhere.
    for words in (prepare_, *([train] if name != "online_products" else [])):
        done = subprocess.run([sys.executable, *words, "--source_path", data], cwd=REPOSITORY,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert ("last: epoch 0" if name != "online_products" else "as published") in done.stdout
