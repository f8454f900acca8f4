"""How the C library treats the memory of large arrays on the CPU."""

from __future__ import annotations

import ctypes
import os
import platform

import torch


# Of glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
# What users set where they want it otherwise.
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Keep the memory of freed arrays in the process, for the next ones.

    glibc maps each array above 32 MiB anew, and the kernel clears its pages every
    time. A step with Hessian-vector products frees and allocates some hundred of them:
    with 512 atoms a Nequix step takes 2.8 s so and 2.4 s without (docs/speed.md).

    Returns:
        Whether it was done: not where a GPU does the work, where the environment says
        otherwise, or where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc" or torch.cuda.is_available():
        return False
    if any(name in os.environ for name in SETTINGS):
        return False
    library = ctypes.CDLL(None)
    return all(
        library.mallopt(option, value)
        for option, value in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1))
    )
