"""faiss on a GPU, as far as it can be told without one."""

import faiss
import pytest
import torch

from utilities import faiss_gpu
from utilities.errors import RunError


def test_faiss_is_used_on_a_gpu_only_where_it_has_one(monkeypatch):
    for n_gpus in (0, 1):
        monkeypatch.setattr("faiss.get_num_gpus", lambda n=n_gpus: n)
        assert faiss_gpu.usable(torch.device("cuda", 0)) == bool(n_gpus)
        assert not faiss_gpu.usable("cpu")


@pytest.mark.parametrize("text", [
    "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory: failed to cudaMalloc"
    " 1610612736 bytes (error 2 out of memory)", "CUDA error 2 out of memory"])
def test_running_out_of_memory_is_one_line_with_the_way_out(text):
    with pytest.raises(RunError) as error, faiss_gpu.memory():
        raise RuntimeError(text)
    assert "memory" in str(error.value) and "--evaluate_on_cpu" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^another$"), faiss_gpu.memory():
        raise RuntimeError("another")


@pytest.mark.gpu
@pytest.mark.skipif(not faiss.get_num_gpus(), reason="faiss was built without CUDA")
def test_a_gpu_has_one_object_of_resources():
    assert faiss_gpu.resources(0) is faiss_gpu.resources(0)
