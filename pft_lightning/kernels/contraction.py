"""One sum of forms computed: checked, and given to who can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pft_lightning.errors import ShapeError
from pft_lightning.kernels import host
from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.gpu.trial import find_contract
from pft_lightning.kernels.layout import Layout
from pft_lightning.kernels.sums import Role, Sum, renamed, still_pairs


def contract(
    layout: Layout,
    edges: Edges,
    each: Sum,
    roles: Sequence[Role],
    tensors: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Compute a sum of forms: in C on a CPU, by Triton on a GPU.

    Args:
        layout: of the layer.
        edges: the neighbours.
        each: the sum.
        roles: what each of the tensors is.
        tensors: of one dtype and on the device of the edges, (n_rows, row) or, where
            probes differ, (n_probes, n_rows, row).

    Returns:
        (n_rows, row of the argument that is left out), or the same for each probe where
        one of the tensors that it needs has them.

    Raises:
        ShapeError: a tensor is not what its role says.
    """
    named = each.places
    needed = [_in_memory(tensors[i]) for i in named]
    own = [roles[i] for i in named]
    _check(layout, edges, own, needed, tensors[0].dtype)
    direction = roles[each.own].direction if each.own >= 0 else None
    still = None if direction is None else still_pairs(edges, direction)
    local = renamed(each, {-1: -1} | {old: new for new, old in enumerate(named)})
    probes = [len(tensor) for tensor in needed if tensor.ndim == 3][:1]
    shape = (*probes, edges.lengths[each.slot], layout.widths[each.slot])
    out = torch.empty(shape, dtype=tensors[0].dtype, device=tensors[0].device)
    _compute_on(out.device)(layout, edges, local, own, still, needed, out)
    return out.sum(dim=0) if each.over_probes else out


def _compute_on(device: torch.device) -> Callable[..., None]:
    return host.contract if device.type == "cpu" else find_contract()


def _check(
    layout: Layout,
    edges: Edges,
    roles: Sequence[Role],
    needed: Sequence[torch.Tensor],
    dtype: torch.dtype,
) -> None:
    """Refuse what the compiled forms would read beyond; they ask for nothing."""
    where = edges.centre.device
    n_probes = {len(tensor) for tensor in needed if tensor.ndim == 3}
    for role, tensor in zip(roles, needed, strict=True):
        shape = (edges.lengths[role.argument], layout.widths[role.argument])
        if (
            tensor.dtype != dtype
            or tensor.device != where
            or tensor.ndim not in (2, 3)
            or tensor.shape[-2:] != shape
            or len(n_probes) > 1
        ):
            raise ShapeError(
                f"argument {role.argument} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)} on {tensor.device}; expected {dtype} of shape "
                f"{shape} on {where}, or that for one number of probes."
            )


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose numbers are where its address says."""
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg().contiguous()
