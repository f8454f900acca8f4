"""What a potential has to say of what was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ase
import numpy as np
import torch
from ase.data import atomic_masses

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.measured.crystals import MeasuredCrystal
from pft_lightning.data.measured.items import MeasuredItem
from pft_lightning.data.measured.rows import ThermalQuantity
from pft_lightning.evaluation.force_constants import (
    Potential,
    displaced_forces,
    multiply_hessian,
)
from pft_lightning.evaluation.measured.content import MeasuredContent
from pft_lightning.evaluation.properties import compute_properties, thermal_properties
from pft_lightning.evaluation.protocols import Protocol, compute_phonons
from pft_lightning.losses.measured import measured_modes, spectrum_of
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.hessian_rows import products_to_rows, unit_tangents
from pft_lightning.physics.measurement import MeasuredFrequencies
from pft_lightning.types import Engine, PhononProperties


@dataclass(frozen=True, slots=True, eq=False)
class Calculation:
    """A potential, and how it is evaluated.

    Attributes:
        model: in float64, or an ASE calculator.
        protocol: how second derivatives are taken, and mesh and temperatures.
        max_atoms: of one pass.
        engine: of Hessian-vector products; None chooses by device.
    """

    model: Potential
    protocol: Protocol
    max_atoms: int
    engine: Engine | None

    def frequencies(self, item: MeasuredItem) -> tuple[np.ndarray, int]:
        """Frequencies at one q-point, of the modes that were measured.

        Args:
            item: with the cell that the wave fits.

        Returns:
            (n_values,), THz, negative for imaginary modes: of degenerate ones the mean;
            and the number of products or force calculations.
        """
        record, measured = item.record, item.measured
        assert isinstance(measured, MeasuredFrequencies)
        assert record.force_constants is not None
        assert record.cell is not None
        masses = atomic_masses[record.atomic_numbers]
        waves = find_waves(
            record.force_constants, record.positions, record.cell, masses
        ).first()
        rows, n_products = self._hessian_rows(item)
        matrices = waves.matrices(torch.from_numpy(rows))
        spectrum = spectrum_of(matrices, waves, measured)
        squares = spectrum.squares[0].numpy()[measured_modes(measured, spectrum)]
        found = np.sign(squares) * np.sqrt(np.abs(squares))
        values = measured.expanded()
        return np.bincount(values, found) / np.bincount(values), n_products

    def _hessian_rows(self, item: MeasuredItem) -> tuple[np.ndarray, int]:
        """Compact force constants of the cell of an item, eV/Å², and what they took."""
        record, protocol = item.record, self.protocol
        assert record.force_constants is not None
        own = record.force_constants.representatives()
        atoms = ase.Atoms(
            numbers=record.atomic_numbers,
            cell=record.cell,
            positions=record.positions,
            pbc=True,
        )
        directions = unit_tangents(own, len(atoms)).transpose(1, 0, 2)
        if protocol.method == "finite_displacement":
            both = protocol.displacement * np.concatenate([directions, -directions])
            moved = atoms.positions + both
            forces = np.array(
                displaced_forces(self.model, atoms, moved, self.max_atoms)
            )
            ahead, behind = np.split(forces, 2)
            products = (behind - ahead) / (2 * protocol.displacement)
            n_products = len(moved)
        else:
            assert isinstance(self.model, EnergyModel)
            products = multiply_hessian(
                self.model, atoms, directions, self.max_atoms, self.engine
            )
            n_products = len(directions)
        return products_to_rows(products.transpose(1, 0, 2), own), n_products

    def on_mesh(
        self, crystal: MeasuredCrystal, content: MeasuredContent
    ) -> MeshProperties:
        """Thermal properties and density of states, by phonopy.

        Args:
            crystal: as it is, or relaxed.
            content: what was measured.

        Raises:
            DataFormatError: the supercell is too large.
        """
        protocol = replace(self.protocol, relax=False, band_points=0)
        supercell = crystal.repeated(content.reading.supercell())
        found = compute_phonons(
            self.model,
            supercell,
            protocol,
            max_atoms=self.max_atoms,
            engine=self.engine,
        )
        properties = compute_properties(found.phonon, protocol)
        computed: dict[ThermalQuantity, np.ndarray] = {}
        for quantity, (temperatures, _, _) in content.thermal().items():
            thermal = thermal_properties(found.phonon, temperatures, protocol)
            computed[quantity] = thermal[quantity]
        return MeshProperties(properties, computed, found.n_products)


@dataclass(frozen=True, slots=True, eq=False)
class MeshProperties:
    """Properties of a crystal that are sums over all modes.

    Attributes:
        properties: over the temperatures of the protocol.
        computed: by quantity, (n_temperatures,), at the temperatures of measured ones.
        n_products: Hessian-vector products or force calculations.
    """

    properties: PhononProperties
    computed: dict[ThermalQuantity, np.ndarray]
    n_products: int
