"""Two hundred short epochs: memory and open files stay what they were."""

import subprocess
import sys

import pytest

from tests import forks, runs

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

SETTLED = 20            # epochs until caches and pools have their size
GROWTH = 10 * 2**20     # bytes that may be added after that; a kept batch an epoch would be more
MEASURE = """
def measure():
    import os
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    print("Measured", pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")),
          flush=True)
"""
EPOCHS = MEASURE + """
original = diva_main.Training.evaluate_and_save
def evaluate_and_save(self, epoch):
    original(self, epoch)
    measure()
diva_main.Training.evaluate_and_save = evaluate_and_save
"""
PLOTS = MEASURE + """
import sys
from utilities.logger import Logger
logger = Logger(sys.argv[1], plots="epoch")
for epoch in range(200):
    logger.log("Test", "discriminative_e_recall", {"e_recall@1": 0.5, "e_recall@2": epoch})
    logger.end_epoch(epoch)
    measure()
"""


def check(output: str) -> None:
    measured = [tuple(map(int, line.split()[1:])) for line in output.splitlines()
                if line.startswith("Measured")]
    assert len(measured) == 200
    memory, handles = zip(*measured[SETTLED:], strict=True)
    assert max(memory) - memory[0] < GROWTH
    assert max(handles) == handles[0]


@pytest.mark.parametrize("argv", [
    ("--diva_features", *runs.FOUR, "--kernels", 1),
    ("--diva_features", "discriminative", "dc", "--data_sampler", "distmoment_batchmatch",
     "--cache", "ram", "--train_metrics")], ids=["four features", "storage"])
def test_training(tmp_path, argv):
    with forks.server(tmp_path / "output") as server:
        process = server.start(runs.arguments(
            tmp_path, *argv, "--n_epochs", 200, "--evaltypes", "discriminative",
            "--evaluation_metrics", "e_recall@1", "nmi"), EPOCHS)
        assert forks.until(process.ended, 600) and process.status == 0, process.err
    check(process.out)


def test_plots_of_every_epoch(tmp_path):
    result = subprocess.run([sys.executable, "-c", PLOTS, tmp_path], cwd=forks.ROOT, check=True,
                            capture_output=True, text=True)
    check(result.stdout)
