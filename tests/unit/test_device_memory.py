from __future__ import annotations

import numpy as np
import pytest
import torch

from pft_lightning.backends.memory import in_passes, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
        ),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling "
            "`cublasCreate(handle)`"
        ),
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling "
            "`cusolverDnCreate(handle)`"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 8 bytes. Error code 12"
        ),
        MemoryError("Unable to allocate 8. GiB for an array"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_lack_of_memory_is_known_whoever_reports_it(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_passes_become_smaller_where_memory_runs_out_and_stay_so():
    attempts = []

    def double(part):
        attempts.append(len(part))
        if len(part) > 3:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        return 2 * part

    found = np.concatenate(list(in_passes(double, np.arange(11), 8)))
    assert found.tolist() == (2 * np.arange(11)).tolist()
    assert attempts == [8, 4, 2, 2, 2, 2, 2, 1]


def test_a_single_item_that_does_not_fit_is_an_error():
    def fail(part):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_passes(fail, range(4), 4))
