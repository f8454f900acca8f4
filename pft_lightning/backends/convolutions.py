"""Compiled messages in place of the tensor products of MACE and NequIP.

Both frameworks let another module take features of atoms, harmonics and weights of
edges, and give messages summed over neighbours (their CUDA kernels do). Here the
compiled form of ``messages`` stands in: e3nn's own code slices rows of all
edges, and to fill up the gradient of each slice took most of a Hessian step.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pft_lightning.backends.transposed import transpose_blocks
from pft_lightning.kernels.couplings import Coupling, Symbols, coupling_table
from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.layout import Layout, ProductPath, make_layout
from pft_lightning.kernels.messages import can_fuse, messages


@dataclass(frozen=True, slots=True, eq=False)
class FusedProduct:
    """The products of one tensor product of e3nn with a sum over neighbours.

    Attributes:
        feature_shapes: (channels, components) of each representation of the features.
        degree: highest one of features and messages.
        layout: of the compiled form.
        tables: ``coupling_table``, for each dtype and device that it was asked for.
    """

    feature_shapes: tuple[tuple[int, int], ...]
    degree: int
    layout: Layout
    tables: dict[tuple[torch.dtype, torch.device], torch.Tensor]

    def need_table(self, dtype: torch.dtype, device: torch.device) -> None:
        """Have the table where it will be asked for, while no transform is active."""
        if (dtype, device) not in self.tables:
            exact = self.tables[torch.float64, torch.device("cpu")]
            with torch.inference_mode(False):
                self.tables[dtype, device] = exact.to(device, dtype)

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
        rows = transpose_blocks(features, self.feature_shapes)
        received = messages(self.layout, edges, couplings, rows, weights)
        return transpose_blocks(received, self.layout.message_shapes)


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
    layout = make_layout(paths, [(irrep.dim, mul) for mul, irrep in inputs], kinds)
    table = coupling_table(layout.couplings, harmonics, _symbols(product))
    return FusedProduct(
        feature_shapes=tuple((mul, irrep.dim) for mul, irrep in inputs),
        degree=max(irrep.l for _, irrep in [*inputs, *outputs]),
        layout=layout,
        tables={(table.dtype, table.device): table},
    )


def _symbols(product: torch.nn.Module) -> Symbols:
    """Wigner 3j symbols as a product holds them, and of e3nn where it holds none.

    A product that was built in single precision has them rounded, in double too.
    """
    from e3nn import o3  # 0.4.4 only after MACE, which makes it possible

    held = {name.rpartition(".")[2]: x for name, x in product.named_buffers()}

    def symbols(a: int, b: int, c: int, dtype: torch.dtype) -> torch.Tensor:
        found = held.get(f"_w3j_{a}_{b}_{c}")
        if found is None or found.is_meta:
            return o3.wigner_3j(a, b, c, dtype=dtype)
        return found.detach().to("cpu", dtype)

    return symbols


# A model may be prepared many times; its products stay the same.
_PLANS: weakref.WeakKeyDictionary[torch.nn.Module, FusedProduct | None] = (
    weakref.WeakKeyDictionary()
)

# Modules are changed while they compute, and a model may serve several threads.
_LOCK = threading.RLock()


@dataclass(frozen=True, slots=True, eq=False)
class Convolutions:
    """What stands in for the tensor products of a network, for one batch.

    Attributes:
        edges: of the batch.
        products: in the order in which the network has them.
    """

    edges: Edges
    products: tuple[FusedProduct, ...]

    @contextlib.contextmanager
    def stand_in(self, modules: Sequence[torch.nn.Module]) -> Iterator[None]:
        """Let the compiled form compute what the modules would.

        Their arguments are features of atoms, harmonics and weights of edges; whatever
        follows says between which atoms, which ``edges`` has.

        Args:
            modules: in the same order, whose ``forward`` is exchanged.
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
                # Layers between the first and the last have the same products.
                harmonics, couplings = shared.get(
                    product.layout.couplings, (None, None)
                )
                if couplings is None or harmonics is not edge_attr:
                    couplings = (
                        edge_attr @ product.tables[edge_attr.dtype, edge_attr.device]
                    )
                    shared[product.layout.couplings] = edge_attr, couplings
                return product(x, couplings, edge_weight, self.edges)

            return forward

        forwards = map(replacement, self.products)
        with exchanged_forwards(zip(modules, forwards, strict=True)):
            yield


def find_products(
    modules: Sequence[Any], dtype: torch.dtype, device: torch.device
) -> tuple[FusedProduct, ...] | None:
    """What stands in for tensor products; None where it is not to be had.

    To be asked before any transform of torch.func.

    Args:
        modules: tensor products of the network.
        dtype: in which the network computes.
        device: of the network.
    """
    if not can_fuse(dtype, device, 0):
        return None
    for module in modules:
        if module not in _PLANS:
            with torch.inference_mode(False):  # tables serve trainings as well
                _PLANS[module] = plan(module)
    plans = [_PLANS[module] for module in modules]
    fused = tuple(each for each in plans if each is not None)
    degree = max((each.degree for each in fused), default=0)
    is_complete = len(fused) == len(plans) > 0
    if not is_complete or not can_fuse(dtype, device, degree):
        return None
    for each in fused:
        each.need_table(dtype, device)
    return fused


@contextlib.contextmanager
def exchanged_forwards(
    forwards: Iterable[tuple[torch.nn.Module, Callable[..., torch.Tensor]]],
) -> Iterator[None]:
    """Let modules compute otherwise for a while; other threads wait."""
    with _LOCK, contextlib.ExitStack() as stack:
        for module, forward in forwards:
            stack.enter_context(exchanged(module, "forward", forward))
        yield


@contextlib.contextmanager
def exchanged(module: torch.nn.Module, name: str, value: Any) -> Iterator[None]:
    """Give a module an attribute of its own for a while, whatever it had."""
    before = vars(module).get(name)
    setattr(module, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)
