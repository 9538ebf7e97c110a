"""A run that tests of the tools read."""

import pytest

from tests import runs

EVALTYPES = ("all", "shared", "Sum_discriminative_shared-2-1")


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """The folder of a short run with two features. Its network has no BatchNorm, whose untrained
    statistics would leave little of the differences between images."""
    return runs.train(tmp_path_factory.mktemp("run"), "--diva_features", "discriminative", "shared",
                      "--evaltypes", *EVALTYPES, "--evaluation_metrics", "e_recall@1", "mAP_r",
                      "--arch", "squeezenet1_1_normalize")


@pytest.fixture(scope="package")
def checkpoint(run):
    return run / "checkpoint_last.pth.tar"


@pytest.fixture(scope="package")
def images(run):
    """The folder of the run's images."""
    return run.parents[2] / "data" / "tiny" / "images"
