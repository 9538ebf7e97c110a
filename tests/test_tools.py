"""Walks through the tools, as a new user does: from a fresh clone, by the README's commands."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation.export import EXTRAS
from tests import trees
from tests.test_layers import ROOT

pytestmark = pytest.mark.slow
QUICK = ("--n_epochs 1 --evaluation_metrics e_recall@1 nmi --arch shufflenet_v2_x0_5_normalize "
         "--plots none")


def shell(command: str, folder: Path, tmp_path: Path) -> str:
    """What `command` prints; it must succeed."""
    python = Path(sys.executable).parent
    done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PATH": f"{python}:{os.environ['PATH']}",
                                            "WANDB_MODE": "disabled",
                                            "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_from_a_fresh_clone_through_seeds_a_summary_embeddings_a_search_and_a_file(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    block = re.search(r"## Reading the results.*?```bash\n(.*?)```",
                      (ROOT / "README.md").read_text(), re.DOTALL)[1]
    train, summarize, report, ensemble, embed, search, export = (
        line for line in block.splitlines() if not line.startswith("#"))
    assert "for seed in 1 2 3;" in train
    shell(train.replace("$seed", f"$seed {QUICK}"), clone, tmp_path)
    runs = sorted((clone / "Training_Results" / "glyphs").iterdir())
    assert [run.name for run in runs] == [f"Quickstart_s{seed}" for seed in (1, 2, 3)]

    text = shell(summarize, clone, tmp_path)
    assert "Seeds: 1, 2, 3. Epochs of each run: 1." in text and "on test data" in text
    name = next(path.stem for path in (runs[0] / "CSV_Logs").glob("Data_Test_*_nmi.csv"))
    values = []
    for run in runs:
        with open(run / "CSV_Logs" / f"{name}.csv") as file:
            values.append(float(list(csv.reader(file))[-1][0]))
    assert f"nmi         {np.mean(values):.4f}  {np.std(values, ddof=1):.4f}" in text
    shell(report.replace("<run folder>", str(runs[0])), clone, tmp_path)
    assert (runs[0] / "report.html").stat().st_size > 1e6
    assert "concatenated, 768 dimensions" in shell(ensemble, clone, tmp_path)

    images = clone / "Datasets" / "glyphs" / "images"
    image = next(images.glob("*/*"))

    def with_paths(command: str) -> str:
        return command.replace("<checkpoint>", str(runs[0] / "checkpoint_last.pth.tar")).replace(
            "<images>", str(images)).replace("<image>", str(image))

    shell(with_paths(embed), clone, tmp_path)
    with np.load(clone / "embeddings.npz") as file:
        assert file["names"].shape == (4800,) and file["discriminative"].shape == (4800, 64)
    neighbours = shell(with_paths(search), clone, tmp_path)
    assert "4,800 new" in neighbours and len(re.findall(r"^ +\d+  \d", neighbours, re.M)) == 10
    assert str(image) not in "".join(re.findall(r"^ +\d+  \d.*$", neighbours, re.M))
    assert (clone / "retrievals.png").stat().st_size > 1000
    assert "4,800 kept, 0 new" in shell(with_paths(search), clone, tmp_path)
    if any(importlib.util.find_spec(extra) is None for extra in EXTRAS):
        export = export.replace("onnx", "torch", 1).replace("network.onnx", "network.pt2")
    assert "from the original" in shell(with_paths(export), clone, tmp_path)
    assert (clone / "network.json").exists()


def test_the_published_runs_are_reproduced_beside_the_papers_table(tmp_path):
    data = tmp_path / "data"
    trees.class_folders(data / "cub200", n_classes=8)
    trees.class_folders(data / "cars196", n_classes=8, numbered=False)
    trees.online_products(data / "online_products", n_classes=8)
    flags = ("--arch shufflenet_v2_x0_5_normalize --not_pretrained --crop_size 32 --resize 36 "
             "--bs 8 --embed_dim 16 --kernels 0 --n_epochs 1 --device cpu --plots none")
    command = f"RESULTS={tmp_path}/results bash SampleRuns/Reproduce.sh {data} SEEDS {flags}"
    one = shell(command.replace("SEEDS", "0"), ROOT, tmp_path)
    both = shell(command.replace("SEEDS", "0 1"), ROOT, tmp_path)   # resumes the first seed's
    assert one.count("Seeds: 0. ") == both.count("Seeds: 0, 1. ") == 6
    assert len(list((tmp_path / "results").glob("*/*"))) == 12
    for paper in ("0.692", "0.668", "0.876", "0.841", "0.796", "0.781"):
        assert re.search(rf"best e_recall@1  e_recall@1 .*  2      {paper}$", both, re.M)
