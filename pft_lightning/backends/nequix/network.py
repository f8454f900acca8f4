"""The Nequix network in torch: same weights and numbers, laid out for derivatives.

It stands here because ``import nequix`` imports JAX, and because a Hessian loss takes
three derivatives of it. Parameters are called as in Nequix's own torch form, so that
state dicts fit. Features of an atom are a row: one block (2l+1, channels) after the
other for each irreducible representation, which few operations work through, and so few
kernels of a GPU (``forms``, ``blocks``). Where Nequix makes one long message per edge
and then adds up, messages are contracted with the spherical harmonics while they are
added up: by compiled code (``messages``), or by matrix products over groups of
neighbours of an atom. The same sums, some times faster.

Source: arXiv:2508.16067 (Nequix); arXiv:2101.03164 (NequIP, its architecture).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pft_lightning.backends.nequix.groups import Neighbours, grouped_messages
from pft_lightning.backends.nequix.layers import (
    Gate,
    IrrepsLinear,
    RadialMLP,
    RMSNorm,
    WithConstants,
    hidden_values,
)
from pft_lightning.backends.nequix.paths import find_paths, o3
from pft_lightning.backends.nequix.radial import RadialBasis
from pft_lightning.kernels.couplings import (
    Coupling,
    coupling_matrix,
    coupling_table,
)
from pft_lightning.kernels.edges import PairedEdges
from pft_lightning.kernels.layout import Layout, make_layout
from pft_lightning.kernels.messages import WEIGHT, messages
from pft_lightning.physics.harmonics import Harmonics


class Convolution(torch.nn.Module):
    """One layer: messages from the neighbours, a skip connection, norm and gate.

    Args:
        irreps_in: of the features, sorted, each representation once.
        irreps_out: of the result, the same way.
        lmax: highest degree of the spherical harmonics.
        radial_sizes: of the radial network, without its last layer.
        radial_scale: see ``RadialMLP``.
        mean_neighbours: messages are divided by its square root.
        norm: whether there is a ``RMSNorm``.
    """

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        *,
        lmax: int,
        radial_sizes: Sequence[int],
        radial_scale: float,
        mean_neighbours: float,
        norm: bool,
    ) -> None:
        super().__init__()
        self.paths, messages = find_paths(irreps_in, irreps_out, lmax)
        n_weights = sum(path.channels for path in self.paths)
        n_gates = irreps_out.num_irreps - irreps_out.count("0e")
        mixed = (irreps_out + o3.Irreps(f"{n_gates}x0e")).regroup()
        self.linear_1 = IrrepsLinear(irreps_in, irreps_in)
        self.radial_mlp = RadialMLP([*radial_sizes, n_weights], radial_scale)
        scales = RMSNorm.scales(mixed) if norm else [1.0] * len(mixed)
        mean = 1.0 / math.sqrt(mean_neighbours)
        self.linear_2 = IrrepsLinear(messages, mixed, [mean * x for x in scales])
        self.skip = IrrepsLinear(irreps_in, mixed, scales)
        self.layer_norm = RMSNorm(mixed) if norm else None
        self.gate = Gate(mixed, n_gates)
        kinds = [
            Coupling(path.degree, path.harmonic, path.target_degree)
            for path in self.paths
        ]
        self.shapes = [(irrep.dim, n) for n, irrep in irreps_in]
        self.layout: Layout = make_layout(self.paths, self.shapes, kinds)

    def forward(
        self,
        features: torch.Tensor,
        hidden: torch.Tensor,
        couplings: Any,
        neighbours: Neighbours | PairedEdges,
    ) -> torch.Tensor:
        """Features of the next layer.

        Args:
            features: (n_atoms, row).
            hidden: (n_edges or n_pairs, n_hidden), of the radial network, in the order
                of ``neighbours``.
            couplings: see ``NequixNetwork.couplings`` and ``coupling_rows``.
            neighbours: who they are.
        """
        sent = self.linear_1(features)
        if isinstance(neighbours, PairedEdges):
            (weights,) = self.radial_mlp(hidden, [self.layout.widths[WEIGHT]])
            received = messages(self.layout, neighbours, couplings, sent, weights)
        else:
            of_paths = self.radial_mlp(hidden, [path.channels for path in self.paths])
            received = grouped_messages(
                self.paths, self.shapes, neighbours, couplings, sent, of_paths
            )
        mixed = self.linear_2(received) + self.skip(features)
        return self.gate(self.layer_norm(mixed) if self.layer_norm else mixed)


class NequixNetwork(WithConstants):
    """Energies of atoms in their surroundings.

    Args:
        n_species: number of elements.
        hidden_irreps: of the features between layers (see ``is_supported``).
        lmax: highest degree of the spherical harmonics.
        cutoff: Å.
        n_layers: number of convolutions.
        radial_basis_size: number of Bessel functions.
        radial_mlp_size: width of the radial networks.
        radial_mlp_layers: their hidden layers.
        radial_polynomial_p: exponent of the envelope.
        mlp_init_scale: see ``RadialMLP``.
        avg_n_neighbors: mean number of neighbours in the training data.
        shift: of the energy of an atom, eV.
        scale: of the energy of an atom, eV.
        layer_norm: whether layers end with a ``RMSNorm``.
    """

    layers: Any
    atom_energies: torch.Tensor

    def __init__(
        self,
        *,
        n_species: int,
        hidden_irreps: str,
        lmax: int,
        cutoff: float,
        n_layers: int,
        radial_basis_size: int,
        radial_mlp_size: int,
        radial_mlp_layers: int,
        radial_polynomial_p: float,
        mlp_init_scale: float,
        avg_n_neighbors: float,
        shift: float,
        scale: float,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.lmax = lmax
        self.cutoff = float(cutoff)
        self.shift, self.scale = float(shift), float(scale)
        self.register_buffer("atom_energies", torch.zeros(n_species))
        self._harmonics = Harmonics(lmax, o3.spherical_harmonics)
        self._basis = RadialBasis(
            self.cutoff, radial_basis_size, float(radial_polynomial_p)
        )
        hidden = o3.Irreps(hidden_irreps)
        species, scalars = o3.Irreps(f"{n_species}x0e"), hidden.filter(keep=["0e"])
        sizes = [radial_basis_size] + [radial_mlp_size] * radial_mlp_layers
        self.layers = torch.nn.ModuleList(
            Convolution(
                species if i == 0 else hidden,
                hidden if i < n_layers - 1 else scalars,
                lmax=lmax,
                radial_sizes=sizes,
                radial_scale=mlp_init_scale,
                mean_neighbours=avg_n_neighbors,
                norm=layer_norm,
            )
            for i in range(n_layers)
        )
        self.readout = IrrepsLinear(scalars, o3.Irreps("1x0e"))
        # Buffers with the coefficients: of each product, and side by side of a layer's.
        self._matrices: dict[Coupling, str] = {}
        self._tables: dict[tuple[Coupling, ...], str] = {}
        degrees = range(lmax + 1)
        for layer in self.layers:
            kinds = layer.layout.couplings
            if kinds not in self._tables:
                self._tables[kinds] = f"_table_{len(self._tables)}"
                table = coupling_table(kinds, degrees, o3.wigner_3j)
                self.add_constant(self._tables[kinds], table)
            for kind in kinds:
                if kind not in self._matrices:
                    name = f"_coupling_{kind.degree}_{kind.harmonic}_{kind.target}"
                    self._matrices[kind] = name
                    self.add_constant(name, coupling_matrix(kind, o3.wigner_3j))

    def forward(
        self,
        species: torch.Tensor,
        vectors: torch.Tensor,
        neighbours: Neighbours | PairedEdges,
    ) -> torch.Tensor:
        """Energies (n_atoms,), eV.

        Args:
            species: (n_atoms,), int64, place of the element in the list.
            vectors: (n_edges, 3), Å, to the neighbours in the order of these.
            neighbours: of each atom.
        """
        couplings: Any
        if fused := isinstance(neighbours, PairedEdges):
            couplings = self.coupling_rows(vectors)
            vectors = vectors.index_select(0, neighbours.first_of_pair)
        else:
            couplings = self.couplings(vectors)
        radial = self.radial_basis(torch.linalg.vector_norm(vectors, dim=-1))
        one_hot = torch.nn.functional.one_hot(species, len(self.atom_energies))
        features = one_hot.to(radial.dtype)
        hidden = hidden_values([layer.radial_mlp for layer in self.layers], radial)
        for layer, values in zip(self.layers, hidden, strict=True):
            of_layer = couplings[layer.layout.couplings] if fused else couplings
            features = layer(features, values, of_layer, neighbours)
        inner = self.readout(features)[:, 0] * self.scale + self.shift
        return inner + self.atom_energies[species]

    def radial_basis(self, lengths: torch.Tensor) -> torch.Tensor:
        """Bessel functions times an envelope (n_edges, n_basis); 0 from the cutoff on.

        Args:
            lengths: (n_edges,), Å, not zero.
        """
        return self._basis(lengths[:, None])

    def couplings(
        self, vectors: torch.Tensor
    ) -> dict[tuple[int, int, int], torch.Tensor]:
        """Harmonics contracted with coupling coefficients, shared by all layers.

        Args:
            vectors: (n_edges, 3), Å.

        Returns:
            For each (degree of the features, of the harmonics, of the messages) an
            array (n_edges, 2 * degree in + 1, 2 * degree out + 1).
        """
        components = [2 * degree + 1 for degree in range(self.lmax + 1)]
        harmonics = self._harmonics(vectors).split(components, dim=1)
        return {
            kind[:3]: (harmonics[kind.harmonic] @ getattr(self, name)).view(
                -1, 2 * kind.degree + 1, 2 * kind.target + 1
            )
            for kind, name in self._matrices.items()
        }

    def coupling_rows(
        self, vectors: torch.Tensor
    ) -> dict[tuple[Coupling, ...], torch.Tensor]:
        """The same arrays side by side, (n_edges, columns) for each kind of layer."""
        harmonics = self._harmonics(vectors)
        return {
            kinds: harmonics @ getattr(self, name)
            for kinds, name in self._tables.items()
        }
