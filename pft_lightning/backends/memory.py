"""What to do where the device has no memory for all at once: less at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error


_Result = TypeVar("_Result")

# What allocations that torch does not make itself are called where they fail, beside
# what Lightning knows: of the CUDA driver and Triton, of CUDA's libraries (which make
# their handles and workspaces on first use), and of the CPU.
_MESSAGES: Final = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cusolverDnCreate",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
    "CUFFT_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "DefaultCPUAllocator",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, whoever asked for it.

    Args:
        error: of torch, Triton, a library of CUDA, NumPy or Python.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or is_oom_error(error):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(m in text for m in _MESSAGES)


def free_memory() -> None:
    """Give back what nobody uses any more, so that other libraries find room.

    To be called outside of the ``except`` block: until its end the traceback holds the
    tensors of the attempt.
    """
    garbage_collection_cuda()


def in_passes(
    compute: Callable[[Any], _Result], items: Sequence[Any] | Any, most: int
) -> Iterator[_Result]:
    """Compute some items after the other, fewer at once where memory runs out.

    Args:
        compute: takes a slice of the items.
        items: what has a length and can be sliced.
        most: of them in a pass.

    Yields:
        The result of each pass.

    Raises:
        RuntimeError: a single item does not fit, or something else went wrong.
    """
    start = 0
    while start < len(items):
        part = items[start : start + most]
        try:
            result = compute(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            most = (len(part) + 1) // 2
        else:
            start += len(part)
            yield result
            continue
        free_memory()
