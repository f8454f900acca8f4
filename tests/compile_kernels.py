"""Compile the Triton kernels for GPUs that are not here; Triton brings all it needs.

Prints a line for each: kernel, compute capability, number of terms, bytes that do not
fit registers. To be run in a process of its own, in which Triton is not interpreted.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pft_lightning.kernels import contraction, host, messages
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import pair_edges
from pft_lightning.kernels.gpu import calls
from pft_lightning.kernels.layout import ProductPath, make_layout
from pft_lightning.physics.hvp import compute_derivatives


CAPABILITIES = (80, 90)
_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


class Recorded:
    """Stands in for a kernel and keeps what it is called with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.variants: dict[tuple[Any, ...], tuple[dict, dict]] = {}

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def call(*args: Any, num_warps: int, **constants: Any) -> None:
            names = self.kernel.arg_names
            given = dict(zip(names, args, strict=False)) | constants
            signature = {
                name: "constexpr" if name.isupper() else _type(given[name])
                for name in names
            }
            values = {(names.index(name),): value for name, value in constants.items()}
            terms = (*given["EVERYWHERE"], *given["MOVING"])
            key = (sum(place >= 0 for place in terms) // 3, str(values))
            self.variants[key] = signature, values

        return call


def _type(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    return tuple(map(_type, value)) if isinstance(value, tuple) else "i32"


def record() -> dict[str, Recorded]:
    """Calls of a step with a Hessian column of two layers between three atoms."""
    kernels = {
        name: Recorded(getattr(calls, name))
        for name in ("vectors", "weights", "couplings")
    }
    for name, kernel in kernels.items():
        setattr(calls, name, kernel)

    def both(*args: Any) -> None:
        calls.contract(*args)
        host.contract(*args)

    contraction._compute_on = lambda device: both
    paths = [ProductPath(0, 0, 0, 0, 0, 32), ProductPath(0, 0, 3, 1, 3, 32)]
    kinds = [Coupling(x.degree, x.harmonic, x.target_degree) for x in paths]
    layout = make_layout(paths, [(1, 32)], kinds)
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    edges = pair_edges(index, torch.zeros(4, 3, dtype=torch.int8), 3)
    factor = torch.ones(64, requires_grad=True)

    def energy(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        vectors = positions[edges.neighbour] - positions[edges.centre]
        squares = vectors.square().sum(dim=1, keepdim=True)
        weights = torch.sin(squares[edges.first_of_pair] * factor)
        features = positions.new_ones(3, 32)
        for _ in range(2):
            received = messages.messages(
                layout, edges, squares.expand(-1, 8), features, weights
            )
            features = features + torch.tanh(received[:, :32])
        return received.sum().reshape(1)

    positions = torch.tensor([[0.0, 0.1, 0.2], [1.1, 0.3, 0.0], [2.0, -0.2, 0.1]])
    column = torch.zeros(3, 1, 3)
    column[0, 0, 0] = 1.0
    found = compute_derivatives(energy, positions, torch.ones(1), tangents=column)
    torch.autograd.grad(found.hvp.square().sum(), factor)
    return kernels


def main() -> None:
    """Compile of each kernel the variants with the fewest and with the most terms."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for name, kernel in record().items():
        for key in (min(kernel.variants), max(kernel.variants)):
            signature, values = kernel.variants[key]
            for capability in CAPABILITIES:
                compiled = triton.compile(
                    ASTSource(kernel.kernel, signature=signature, constexprs=values),
                    target=GPUTarget("cuda", capability, 32),
                    options={"num_warps": 1},
                )
                with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                    Path(file.name).write_bytes(compiled.asm["cubin"])
                    usage = subprocess.run(
                        [str(tools / "cuobjdump"), "-res-usage", file.name],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout
                spilled = re.findall(r"STACK:(\d+)", usage)
                print("COMPILED", name, capability, key[0], *spilled, flush=True)


if __name__ == "__main__":
    main()
