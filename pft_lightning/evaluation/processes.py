"""What the processes of one evaluation say to each other.

They are those of torch's process group, whoever has started it; without one, this
process is alone.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch


_T = TypeVar("_T")


def rank() -> tuple[int, int]:
    """Give the number of this process and how many there are."""
    if not _distributed():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def barrier() -> None:
    """Wait for all processes."""
    if _distributed():
        torch.distributed.barrier()


def gather(value: _T) -> list[_T]:
    """Give every process the values of all, in their order."""
    if not _distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
