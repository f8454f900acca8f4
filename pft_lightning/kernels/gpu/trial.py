"""Whether Triton can be used on a device: by trying it."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable

import torch

from pft_lightning.errors import KernelError
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import group_edges
from pft_lightning.kernels.interface import COUPLING, FEATURE, MESSAGE, WEIGHT
from pft_lightning.kernels.layout import ProductPath, make_layout
from pft_lightning.kernels.sums import Role, Sum


_CHANNELS = 32


@functools.cache
def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Compile and run one small kernel and check what it gives; warns where it fails.

    Failures are of many kinds (no Triton, no C compiler for its launcher, a card that
    it no longer knows, a driver older than its toolkit) and show only then.
    ``PFT_LIGHTNING_COMPILE=0`` turns it off.

    Args:
        device: to be used.
        dtype: of the numbers.
    """
    if os.environ.get("PFT_LIGHTNING_COMPILE") == "0":
        return False
    try:
        _try(device, dtype)
    # Compilers and drivers raise what they like, and none of it may end a run.
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        warnings.warn(
            f"Triton does not work on {_describe(device)} "
            f"({type(error).__name__}: {reason[-1][:200]}). Models run without the "
            "compiled messages, with the same numbers but slower and in more memory. "
            "PFT_LIGHTNING_COMPILE=0 chooses that without this warning.",
            stacklevel=2,
        )
        return False
    return True


def find_contract() -> Callable[..., None]:
    """The call of the kernels, which imports Triton."""
    from pft_lightning.kernels.gpu import calls

    return calls.contract


def _describe(device: torch.device) -> str:
    if device.type != "cuda" or not torch.cuda.is_available():
        return str(device)
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return f"{device} ({name}, compute capability {major}.{minor})"


def _try(device: torch.device, dtype: torch.dtype) -> None:
    """Messages of two atoms with one channel block, against the written-out product."""
    contract = find_contract()
    path, kind = ProductPath(0, 0, 0, 0, 0, _CHANNELS), Coupling(0, 0, 0)
    layout = make_layout([path], [(1, _CHANNELS)], [kind])
    atoms = torch.tensor([0, 1])
    edges = group_edges(atoms, atoms.flip(0), 2).to(device)
    row = torch.arange(1, 2 * _CHANNELS + 1, device=device, dtype=dtype).view(2, -1)
    couplings = row[:, :1].contiguous()
    out = torch.full_like(row, torch.nan)
    form = Sum(MESSAGE, ((0, 1, 2, -1),))
    roles = [Role(argument) for argument in (COUPLING, FEATURE, WEIGHT)]
    contract(layout, edges, form, roles, None, [couplings, row, row], out)
    if not torch.equal(out, couplings * row.flip(0) * row):
        raise KernelError("its numbers are wrong")
