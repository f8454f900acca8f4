"""Compiled messages in place of the tensor products of MACE and NequIP.

Both frameworks let another module take features of atoms, harmonics and weights of
edges, and give messages summed over neighbours (their CUDA kernels do). Here the
compiled form of ``messages`` stands in on the CPU: e3nn's own code slices rows of all
edges, and to fill up the gradient of each slice took most of a Hessian step.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pft_lightning.backends.couplings import Coupling, coupling_table, first_columns
from pft_lightning.backends.message_edges import Edges, group_edges
from pft_lightning.backends.message_layout import Layout, ProductPath, make_layout
from pft_lightning.backends.messages import can_fuse, messages


@dataclass(frozen=True, slots=True, eq=False)
class FusedProduct:
    """The products of one tensor product of e3nn with a sum over neighbours.

    Attributes:
        feature_shapes: (channels, components) of each representation of the features.
        couplings: what the columns of its couplings are.
        harmonics: degrees, in the order of the rows.
        degree: highest one of features and messages.
        layout: of the compiled form.
        tables: ``coupling_table``, for each dtype.
    """

    feature_shapes: tuple[tuple[int, int], ...]
    couplings: tuple[Coupling, ...]
    harmonics: tuple[int, ...]
    degree: int
    layout: Layout
    tables: dict[torch.dtype, torch.Tensor]

    def __call__(
        self,
        features: torch.Tensor,
        couplings: torch.Tensor,
        weights: torch.Tensor,
        edges: Edges,
    ) -> torch.Tensor:
        """Messages (n_atoms, row of messages) in e3nn's order.

        Args:
            features: (n_atoms, row of features), in e3nn's order.
            couplings: (n_edges, columns), harmonics times the table.
            weights: (n_edges, row of weights).
            edges: who sends to whom.
        """
        sizes = [n * m for n, m in self.feature_shapes]
        blocks = features.split(sizes, dim=1)
        rows = torch.cat(
            [
                block.unflatten(1, shape).transpose(1, 2).flatten(1)
                for block, shape in zip(blocks, self.feature_shapes, strict=True)
            ],
            dim=1,
        )
        received = messages(self.layout, edges, couplings, rows, weights)
        shapes = self.layout.message_shapes
        parts = received.split([m * n for m, n in shapes], dim=1)
        return torch.cat(
            [
                part.unflatten(1, shape).transpose(1, 2).flatten(1)
                for part, shape in zip(parts, shapes, strict=True)
            ],
            dim=1,
        )


def plan(product: Any) -> FusedProduct | None:
    """Lay out a tensor product of e3nn; None where it is of another kind.

    Args:
        product: ``e3nn.o3.TensorProduct`` with weights from outside.
    """
    if not hasattr(product, "instructions") or product.shared_weights:
        return None
    inputs, outputs = list(product.irreps_in1), list(product.irreps_out)
    harmonics = [irrep.l for _, irrep in product.irreps_in2]
    # Neighbouring outputs of one representation are one block of messages.
    places = [0]
    for (_, one), (_, other) in itertools.pairwise(outputs):
        places.append(places[-1] + (one != other))
    slots = [instruction.i_out for instruction in product.instructions]
    in_order = {
        place: [s for s in slots if places[s] == place] for place in set(places)
    }
    channelwise = all(
        i.connection_mode == "uvu" and i.has_weight for i in product.instructions
    )
    if not (
        channelwise
        and all(mul == 1 for mul, _ in product.irreps_in2)
        and len(set(harmonics)) == len(harmonics)
        # Channels of a block are filled in the order of the weights.
        and all(found == sorted(found) for found in in_order.values())
        and sorted(slots) == list(range(len(outputs)))
    ):
        return None
    paths, kinds = [], []
    for i in product.instructions:
        (channels, irrep), target = inputs[i.i_in1], outputs[i.i_out].ir.l
        harmonic = harmonics[i.i_in2]
        paths.append(
            ProductPath(i.i_in1, irrep.l, harmonic, places[i.i_out], target, channels)
        )
        factor = float(i.path_weight) / (2 * target + 1) ** 0.5
        kinds.append(Coupling(irrep.l, harmonic, target, factor))
    couplings = tuple(sorted(set(kinds)))
    columns = first_columns(couplings)
    table = coupling_table(couplings, harmonics)
    return FusedProduct(
        feature_shapes=tuple((mul, irrep.dim) for mul, irrep in inputs),
        couplings=couplings,
        harmonics=tuple(harmonics),
        degree=max(irrep.l for _, irrep in [*inputs, *outputs]),
        layout=make_layout(
            paths,
            [(irrep.dim, mul) for mul, irrep in inputs],
            [columns[kind] for kind in kinds],
            sum(kind.columns for kind in couplings),
        ),
        tables={dtype: table.to(dtype) for dtype in (torch.float32, torch.float64)},
    )


# A model may be prepared many times; its products stay the same.
_PLANS: weakref.WeakKeyDictionary[torch.nn.Module, FusedProduct | None] = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True, slots=True, eq=False)
class Convolutions:
    """Modules of a network, and what stands in for them.

    Attributes:
        edges: of the batch.
        products: by the module whose ``forward`` they replace.
    """

    edges: Edges
    products: dict[torch.nn.Module, FusedProduct]

    @contextlib.contextmanager
    def stand_in(self) -> Iterator[None]:
        """Let the compiled form compute what the modules would.

        Their arguments are features of atoms, harmonics and weights of edges; whatever
        follows says between which atoms, which ``edges`` has.
        """
        shared: dict[tuple[Coupling, ...], tuple[torch.Tensor, torch.Tensor]] = {}

        def replacement(product: FusedProduct) -> Callable[..., torch.Tensor]:
            def forward(
                x: torch.Tensor,
                edge_attr: torch.Tensor,
                edge_weight: torch.Tensor,
                *_: Any,
                **__: Any,
            ) -> torch.Tensor:
                # Most layers of a network have the same products of the same harmonics.
                harmonics, couplings = shared.get(product.couplings, (None, None))
                if couplings is None or harmonics is not edge_attr:
                    couplings = edge_attr @ product.tables[edge_attr.dtype]
                    shared[product.couplings] = edge_attr, couplings
                return product(x, couplings, edge_weight, self.edges)

            return forward

        with contextlib.ExitStack() as stack:
            for module, product in self.products.items():
                stack.enter_context(_forward(module, replacement(product)))
            yield


def find_convolutions(
    products: dict[torch.nn.Module, Any],
    dtype: torch.dtype,
    receivers: torch.Tensor,
    senders: torch.Tensor,
    n_atoms: int,
) -> Convolutions | None:
    """Prepare the compiled form for a batch; None where it is not to be had.

    To be done before any transform of torch.func.

    Args:
        products: by the module to be replaced, its tensor product.
        dtype: in which the network computes.
        receivers: (n_edges,), int64, atoms that add the messages up.
        senders: (n_edges,), int64, atoms whose features they have.
        n_atoms: number of atoms.
    """
    plans = {}
    for module, product in products.items():
        if product not in _PLANS:
            _PLANS[product] = plan(product)
        plans[module] = _PLANS[product]
    fused = {module: plan for module, plan in plans.items() if plan is not None}
    degree = max((product.degree for product in fused.values()), default=0)
    is_complete = len(fused) == len(products) > 0
    if not is_complete or not can_fuse(dtype, receivers.device, degree):
        return None
    return Convolutions(group_edges(receivers, senders, n_atoms), fused)


@contextlib.contextmanager
def _forward(
    module: torch.nn.Module, function: Callable[..., torch.Tensor]
) -> Iterator[None]:
    """Exchange the ``forward`` of one module, whatever it was."""
    before = vars(module).get("forward")
    module.forward = function
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
