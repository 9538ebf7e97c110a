"""Wrong command lines of the tools: each ends with status 2 and one exact line, before any file is
written."""

import importlib
import shlex
import shutil

import numpy as np
import pytest

from tests import trees
from tests.tools import call

EMBED = "--checkpoint {last} --images {images} --out {tmp}/x.npz"
SEARCH = "--checkpoint {last} --gallery {images} --query {tmp}/a.png"
EXPORT = "--checkpoint {last} --format torch --out {tmp}/x.pt2"
TYPES = "avif, bmp, gif, jfif, jp2, jpe, jpeg, jpg, pbm, pgm, png, pnm, ppm, tga, tif, tiff, webp"
RESULTS = "the folder of a run that has trained an epoch, or a folder of such"
EVALTYPES = ("Combined_discriminative_shared-1-1, Combined_discriminative_shared-1-0.5, "
             "Combined_discriminative_shared-0.5-1, shared, Sum_discriminative_shared-2-1")
A_CHECKPOINT = "a checkpoint with a network's state dict"
# Tool, command line (later words win) -> what stands behind "evaluation.<tool>: error: ".
WRONG = [
    ("embed", "--images {images} --out {tmp}/x.npz",
     "--checkpoint: not given; accepted: checkpoint of a run"),
    ("embed", "--checkpoint {last} --out {tmp}/x.npz",
     "--images: not given; accepted: folder of images, searched at any depth, or a table .csv with "
     "a column path and, where wanted, the box x_1, x_2, y_1, y_2 in pixels"),
    ("embed", EMBED + " --image x",
     "--images: 'x' does not exist; accepted: a folder of images, or a table .csv"),
    ("embed", EMBED + " --checkpoint {tmp}/none",
     "--checkpoint: '{tmp}/none' does not exist; accepted: " + A_CHECKPOINT),
    ("embed", EMBED + " --checkpoint {tmp}/a.png",
     "--checkpoint: cannot read tensors from '{tmp}/a.png'; accepted: " + A_CHECKPOINT),
    ("embed", EMBED + " --checkpoint {tmp}",
     "--checkpoint: '{tmp}' is no file; accepted: " + A_CHECKPOINT),
    ("embed", EMBED + " --images {tmp}/none",
     "--images: '{tmp}/none' does not exist; accepted: a folder of images, or a table .csv"),
    ("embed", EMBED + " --images {tmp}/empty",
     "--images: no image in '{tmp}/empty'; accepted: files of these types, at any depth: " + TYPES),
    ("embed", EMBED + " --images {tmp}/table.csv",
     "--images: the header of '{tmp}/table.csv' has no column path: 'label'; accepted: a CSV file "
     "with the column path, and optionally is_query, is_gallery (both), x_1, y_1, x_2, y_2 (all) "
     "and category, each once"),
    ("export", "--checkpoint {last} --format torch --out .",
     "--out: '.' exists; accepted: a path where nothing is yet"),
    ("embed", EMBED + " --out {tmp}/a.png",
     "--out: '{tmp}/a.png' exists; accepted: a path where nothing is yet"),
    ("embed", EMBED + " --out {tmp}/none/x.npz",
     "--out: the folder of '{tmp}/none/x.npz' does not exist; accepted: a path in a folder that "
     "exists"),
    ("embed", EMBED + " --out ''", "--out: '' given; accepted: a path"),
    ("embed", EMBED + " --bs 0", "--bs: 0 given; accepted: a whole number from 1 upwards"),
    ("embed", EMBED + " --device tpu",
     "--device: unknown 'tpu' (did you mean 'cpu'?); accepted: auto, cuda, cpu"),
    ("embed", EMBED + " --device cuda",
     "--device: 'cuda' given, but there is no CUDA device here; accepted: auto, cpu"),
    ("embed", "x " + EMBED, "'x': no flag before it; accepted: --flag value, see --help"),

    ("search", "--gallery {images} --query {tmp}/a.png",
     "--checkpoint: not given; accepted: checkpoint of a run"),
    ("search", "--checkpoint {last}",
     "--gallery: not given; accepted: --gallery <folder> --query <image>, or --pair <image> "
     "<image>"),
    ("search", "--checkpoint {last} --gallery {images}",
     "--query: not given; accepted: --gallery <folder> --query <image>, or --pair <image> <image>"),
    ("search", SEARCH + " --gallery {tmp}/a.png",
     "--gallery: '{tmp}/a.png' is no folder; accepted: a folder of images"),
    ("search", SEARCH + " --gallery {tmp}/empty",
     "--gallery: no image in '{tmp}/empty'; accepted: files of these types, at any depth: "
     + TYPES),
    ("search", SEARCH + " --query {tmp}/none.png",
     "--query: '{tmp}/none.png' does not exist; accepted: image files"),
    ("search", SEARCH + " --query {tmp}/table.csv",
     "--query: cannot read the image '{tmp}/table.csv' (it is no image); accepted: images that "
     "Pillow reads; --skip_broken_images leaves out others"),
    ("search", SEARCH + " --k 0", "--k: 0 given; accepted: a whole number from 1 upwards"),
    ("search", SEARCH + " --evaltype intra",
     "--evaltype: 'intra' is not among --diva_features; accepted: discriminative, shared, and "
     "Combined_ or Sum_ of these, joined by _, with weights -<w>-<w>... behind"),
    ("search", SEARCH + " --factory nonsense",
     "--factory: 'nonsense' names no index of 32 dimensions (could not parse index string "
     "nonsense); accepted: a name as faiss's index_factory reads it, e.g. IVF1024,PQ64"),
    ("search", SEARCH + " --factory IVF64,Flat",
     "--factory: 'IVF64,Flat' cannot be trained on 32 images (Number of training points (32) "
     "should be at least as large as number of clusters (64)); accepted: fewer lists (IVF) or "
     "smaller codes (PQ)"),
    ("search", SEARCH + " --nprobe 3",
     "--nprobe: 3 given without an inverted file to search; accepted: with --factory IVF..."),
    ("search", SEARCH + " --index {images}/index.npz",
     "--index: '{images}/index.npz' lies in the gallery; accepted: a path outside of it"),
    ("search", SEARCH + " --index {tmp}/a.png",
     "--index: '{tmp}/a.png' is no index of a gallery (ValueError); accepted: a path where "
     "nothing is yet, or such an index"),
    ("search", SEARCH + " --index {tmp}/array.npy",
     "--index: '{tmp}/array.npy' is no index of a gallery (TypeError); accepted: a path where "
     "nothing is yet, or such an index"),
    ("search", SEARCH + " --out {images}/new.png",
     "--out: '{images}/new.png' lies in the gallery; accepted: a path outside of it"),
    ("search", SEARCH + " --out {tmp}/a.png",
     "--out: '{tmp}/a.png' exists; accepted: a path where nothing is yet"),
    ("search", "--checkpoint {last} --pair {tmp}/a.png",
     "--pair: expected 2 arguments; accepted: 2 of: a path"),
    ("search", SEARCH + " --pair {tmp}/a.png {tmp}/a.png",
     "--gallery: given with --pair; accepted: one of them"),

    ("export", "--format onnx --out {tmp}/x", "--checkpoint: not given; accepted: checkpoint of a "
     "run"),
    ("export", "--checkpoint {last} --out {tmp}/x",
     "--format: not given; accepted: onnx, or torch for an archive of torch.export"),
    ("export", "--checkpoint {last} --format torch",
     "--out: not given; accepted: file to write; the preprocessing goes into a file of the same "
     "name that ends in .json"),
    ("export", EXPORT + " --format tensorrt",
     "--format: unknown 'tensorrt'; accepted: onnx, torch"),
    ("export", EXPORT + " --out {tmp}/x.onnx",
     "--out: '{tmp}/x.onnx' given; accepted: with --format torch a name that ends in .pt2, as "
     "torch.export.load wants it"),
    ("export", EXPORT + " --out {tmp}/old.pt2",
     "--out: '{tmp}/old.json' exists; accepted: a path where nothing is yet"),
    ("export", EXPORT + " --out {tmp}/none/x.pt2",
     "--out: the folder of '{tmp}/none/x.pt2' does not exist; accepted: a path in a folder that "
     "exists"),
    ("export", EXPORT + " --checkpoint {tmp}/none",
     "--checkpoint: '{tmp}/none' does not exist; accepted: " + A_CHECKPOINT),
    ("export", EXPORT + " --opset 17",
     "--opset: unknown flag (did you mean --out?); accepted: the flags that --help lists"),

    ("ensemble", "", "folders: not given; accepted: folders of two runs or more, or folders that "
     "hold such"),
    ("ensemble", "{run}", "folders: 1 run given; accepted: two or more"),
    ("ensemble", "{run} {run}/", "folders: 1 run given; accepted: two or more"),
    ("ensemble", "{run} {tmp}/none",
     "folders: '{tmp}/none' does not exist; accepted: " + RESULTS),
    ("ensemble", "{run} {tmp}/a.png", "folders: '{tmp}/a.png' is no folder; accepted: " + RESULTS),
    ("ensemble", "{run} {tmp}/empty", "folders: no run in '{tmp}/empty'; accepted: " + RESULTS),
    ("ensemble", "{run} {copy} --evaltype intra",
     "--evaltype: 'intra' is none of '{run}'; accepted: " + EVALTYPES),
    ("ensemble", "{run} {copy} --evaluation_metrics e_recal@1",
     "--evaluation_metrics: unknown 'e_recal' (did you mean 'e_recall'?); accepted: {metrics}"),
    ("ensemble", "{run} {copy} --evaltype shared",
     "folders: '{copy}/checkpoint_shared_e_recall@1.pth.tar' does not exist; accepted: runs with "
     "their best checkpoints"),
    ("ensemble", "{run} {copy} --source_path {tmp}/none",
     "--source_path: '{tmp}/none/tiny/images' does not exist; --dataset tiny is expected as "
     "{tmp}/none/tiny/images/<class>/<image files>; known names: {datasets}; other layouts: "
     "{{train,val,test}}/<class>/<image files>, or a table.csv"),

    ("report", "", "folder: not given; accepted: folder of a run"),
    ("report", "{run} {copy}", "folder: '{copy}' is too much; accepted: a path"),
    ("report", "{tmp}/none",
     "folder: '{tmp}/none/options.json' does not exist; accepted: the folder of an earlier run"),
    ("report", "{tmp}/empty",
     "folder: '{tmp}/empty/options.json' does not exist; accepted: the folder of an earlier run"),
    ("report", "{tmp}/a.png",
     "folder: '{tmp}/a.png/options.json' cannot be reached (Not a directory); accepted: the folder "
     "of an earlier run"),
    ("report", "{unfinished}",
     "folder: '{unfinished}/checkpoint_Sum_discriminative_shared-2-1_e_recall@1.pth.tar' does not "
     "exist; accepted: runs with their best checkpoints"),
    ("report", "{damaged} --evaltype shared",
     "folder: '{damaged}/checkpoint_last.pth.tar' is damaged, cut short or holds more than tensors "
     "and plain types (RuntimeError); accepted: a whole checkpoint of this program"),
    ("report", "{copy} --evaltype shared",
     "folder: '{copy}/checkpoint_shared_e_recall@1.pth.tar' does not exist; accepted: runs with "
     "their best checkpoints"),
    ("report", "{run} --evaltype intra",
     "--evaltype: 'intra' is none of '{run}'; accepted: " + EVALTYPES),
    ("report", "{run} --map umap", "--map: unknown 'umap'; accepted: pca, tsne"),
    ("report", "{run} --device cuda",
     "--device: 'cuda' given, but there is no CUDA device here; accepted: auto, cpu"),
    ("report", "{run} --source_path {tmp}/none",
     "--source_path: '{tmp}/none/tiny/images' does not exist; --dataset tiny is expected as "
     "{tmp}/none/tiny/images/<class>/<image files>; known names: {datasets}; other layouts: "
     "{{train,val,test}}/<class>/<image files>, or a table.csv"),
    ("report", "{occupied}",
     "folder: '{occupied}/report.html' exists, and this tool did not write it; accepted: a run "
     "without it, or with an earlier page of this tool, which is replaced"),

    ("summarize", "", "folders: none given; accepted: folders of runs, or --wandb "
     "<entity>/<project>"),
    ("summarize", "{tmp}/none", "folders: '{tmp}/none' does not exist; accepted: " + RESULTS),
    ("summarize", "{tmp}/empty", "folders: no run in '{tmp}/empty'; accepted: " + RESULTS),
    ("summarize", "{unfinished}",
     "folders: '{unfinished}' holds no checkpoint_last.pth.tar; accepted: " + RESULTS),
    ("summarize", "{damaged}",
     "folders: '{damaged}/checkpoint_last.pth.tar' is damaged, cut short or holds more than "
     "tensors and plain types (RuntimeError); accepted: a whole checkpoint of this program"),
    ("summarize", "{run} {copy}",
     "folders: '{run}' and '{copy}' have the same seed, 1; accepted: one run for each seed"),
    ("summarize", "{run} --format html",
     "--format: unknown 'html'; accepted: text, markdown, latex, csv"),
    ("summarize", "{run} --compare Sample_Run",
     "--compare: expected 2 arguments; accepted: 2 of: a text"),
    ("summarize", "{run} --compare Sample_Run Other",
     "--compare: no run of group 'Other' was read; accepted: Sample_Run"),
    ("summarize", "{run} --compare Sample_Run:intra Sample_Run",
     "--compare: no evaltype in common: {evaltypes}; {evaltypes}; accepted: <group>:<evaltype> for "
     "both"),
    ("summarize", "--wandb project", "--wandb: 'project' given; accepted: <entity>/<project>"),
]


@pytest.fixture(scope="module")
def names(run, images, tmp_path_factory):
    """What stands for the words in braces."""
    import datasets
    import metrics

    tmp = tmp_path_factory.mktemp("wrong")
    trees.write(tmp / "a.png", 1)
    np.save(tmp / "array.npy", np.zeros((2, 3)))
    (tmp / "empty").mkdir()
    (tmp / "table.csv").write_text("label\n0\n")
    (tmp / "old.json").write_text("{}")
    copy, unfinished, damaged = tmp / "copy", tmp / "unfinished", tmp / "damaged"
    shutil.copytree(run, copy)
    occupied = shutil.copytree(run, tmp / "occupied")
    (occupied / "report.html").mkdir()
    (copy / "checkpoint_shared_e_recall@1.pth.tar").unlink()
    for folder in (unfinished, damaged):
        folder.mkdir()
        shutil.copy(run / "options.json", folder)
    shutil.copy(run / "checkpoint_shared_e_recall@1.pth.tar", damaged)
    (damaged / "checkpoint_last.pth.tar").write_bytes(b"PK nothing")
    return {"run": run, "last": run / "checkpoint_last.pth.tar", "images": images, "tmp": tmp,
            "copy": copy, "occupied": occupied, "unfinished": unfinished, "damaged": damaged,
            "evaltypes": EVALTYPES, "metrics": ", ".join(metrics.METRICS),
            "datasets": ", ".join(datasets.DATASETS)}


@pytest.mark.parametrize(("name", "words", "told"), WRONG)
def test_a_wrong_command_is_one_line_and_writes_nothing(names, tmp_path, monkeypatch, capsys, name,
                                                        words, told):
    if "no CUDA device" in told:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    before = set(names["tmp"].rglob("*"))
    argv = shlex.split(words.format(**names))
    if name not in ("export", "summarize") and "--kernels" not in argv:
        argv += ["--kernels", "0"]
    assert call(importlib.import_module(f"evaluation.{name}"), *argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"evaluation.{name}: error: {told.format(**names)}"
    assert set(names["tmp"].rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize("name", ["embed", "search", "export", "ensemble", "summarize"])
def test_each_tool_has_eight_wrong_commands_or_more(name):
    assert sum(tool == name for tool, *_ in WRONG) >= 8
