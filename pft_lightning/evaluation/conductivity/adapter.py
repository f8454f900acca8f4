"""From displacements to a conductivity, with the objects of phono3py 4.10.

``pft_lightning.data.third_order`` makes them; nothing else knows their names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ase
import numpy as np
from phonopy.phonon.grid import get_qpoints_from_bz_grid_points
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.third_order import make_phono3py, quiet
from pft_lightning.errors import DataFormatError, DivergenceError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.conductivity.score import Conductivity, share_coherence
from pft_lightning.evaluation.failures import check_finite


if TYPE_CHECKING:
    from phono3py import Phono3py

    from pft_lightning.evaluation.conductivity.cells import ConductivityCells


# Largest part of the conductivity that may be lost on the way to the modes.
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """A conductivity and its two parts.

    Attributes:
        conductivity: the whole, mode by mode.
        particle: (6,), W/m/K, xx, yy, zz, yz, xz, xy: what modes conduct by themselves.
        coherence: (6,), W/m/K: what pairs of modes conduct.
        heat_capacities: (n_points, n_bands), eV/K, of the modes.
    """

    conductivity: Conductivity
    particle: np.ndarray
    coherence: np.ndarray
    heat_capacities: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The tensor (6,), W/m/K: xx, yy, zz, yz, xz, xy."""
        return self.particle + self.coherence


@dataclass(frozen=True, slots=True, eq=False)
class Displaced:
    """A supercell and the positions at which its forces are needed.

    Attributes:
        supercell: undisplaced.
        positions: (n_displaced, n_atoms, 3), Å.
    """

    supercell: ase.Atoms
    positions: np.ndarray


class ThirdOrderPhonons:
    """Phonons and conductivity of a crystal, from forces on displaced supercells.

    Args:
        cells: supercells; the mesh has to be known.
        atoms: the crystal, relaxed or not.
        mesh: of q-points, or a length in Å.
        protocol: everything else.

    Raises:
        DataFormatError: the supercells do not fit the crystal.
    """

    def __init__(
        self,
        cells: ConductivityCells,
        atoms: ase.Atoms,
        mesh: tuple[int, int, int] | float,
        protocol: ConductivityProtocol,
    ) -> None:
        self._protocol = protocol
        _share_threads()
        with quiet():
            self._phonons = _build(cells, atoms, protocol)
            self._phonons.mesh_numbers = mesh  # type: ignore[assignment]
            self._phonons.generate_displacements(distance=protocol.displacement)

    @property
    def mesh(self) -> tuple[int, int, int]:
        """Numbers of q-points along the axes."""
        first, second, third = (int(n) for n in self._phonons.mesh_numbers)
        return first, second, third

    @property
    def n_primitive(self) -> int:
        """Atoms of the primitive cell."""
        return len(self._phonons.primitive)

    def second_order(self) -> Displaced:
        """Where forces of second order are needed."""
        found = self._phonons
        return _displaced(
            found.phonon_supercell, found.phonon_supercells_with_displacements
        )

    def third_order(self) -> Displaced:
        """Where forces of third order are needed."""
        found = self._phonons
        return _displaced(found.supercell, found.supercells_with_displacements)

    def set_second_order(self, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take forces (n_displaced, n_atoms, 3), eV/Å, and compute frequencies.

        Returns:
            Frequencies (n_points, n_bands), THz, on all points of the mesh, imaginary
            ones negative, and the points (n_points, 3).

        Raises:
            DivergenceError: a force is not finite.
        """
        check_finite(forces, "forces of second order")
        with quiet():
            found = self._phonons
            found.phonon_forces = forces
            found.produce_fc2()
            if self._protocol.symmetrize_fc2:
                found.symmetrize_fc2()
            found.init_phph_interaction(symmetrize_fc3q=False)
            found.run_phonon_solver()
            frequencies, _, _ = found.get_phonon_data()
            numbers = np.arange(len(frequencies), dtype=np.int64)
            points = get_qpoints_from_bz_grid_points(numbers, found.grid)
        return np.asarray(frequencies), np.asarray(points)

    def set_third_order(self, forces: np.ndarray) -> None:
        """Take forces (n_displaced, n_atoms, 3), eV/Å.

        Raises:
            DivergenceError: one is not finite.
        """
        check_finite(forces, "forces of third order")
        with quiet():
            self._phonons.forces = forces
            self._phonons.produce_fc3()
            if self._protocol.symmetrize_fc3r:
                self._phonons.symmetrize_fc3()

    def compute(self) -> Transport:
        """Compute the conductivity; both orders have to be set before.

        Raises:
            DivergenceError: it is no positive number.
        """
        protocol = self._protocol
        with quiet():
            found = self._phonons
            found.sigmas = None if protocol.smearing is None else [protocol.smearing]
            found.init_phph_interaction(symmetrize_fc3q=False)
            found.run_thermal_conductivity(
                temperatures=[protocol.temperature],
                is_isotope=protocol.isotopes,
                transport_type=protocol.transport_type,
                boundary_mfp=protocol.boundary_mfp,
            )
        return _take(found.thermal_conductivity, protocol.temperature)


def _build(
    cells: ConductivityCells, atoms: ase.Atoms, protocol: ConductivityProtocol
) -> Phono3py:
    unitcell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=np.array(atoms.cell),
        positions=atoms.positions,
        # phonopy's own masses, as the published reference, unless the file gives some.
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )
    try:
        for name, matrix in (
            ("fc2", cells.fc2_supercell),
            ("fc3", cells.fc3_supercell),
        ):
            if np.shape(matrix) != (3, 3) or np.linalg.det(matrix) < 0.5:
                raise ValueError(f"the matrix of {name} makes no supercell")
        return make_phono3py(
            unitcell,
            supercell_matrix=cells.fc3_supercell,
            phonon_supercell_matrix=cells.fc2_supercell,
            primitive_matrix="auto",
            symprec=protocol.symprec,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataFormatError(
            f"phono3py makes no supercells of it with fc2_supercell="
            f"{np.asarray(cells.fc2_supercell).tolist()} and fc3_supercell="
            f"{np.asarray(cells.fc3_supercell).tolist()} ({error}). Correct them."
        ) from error


def _displaced(
    supercell: PhonopyAtoms, displaced: Sequence[PhonopyAtoms | None]
) -> Displaced:
    atoms = ase.Atoms(
        numbers=supercell.numbers,
        cell=supercell.cell,
        positions=supercell.positions,
        pbc=True,
    )
    positions = [cell.positions for cell in displaced if cell is not None]
    return Displaced(atoms, np.array(positions))


def _take(found: Any, temperature: float) -> Transport:
    """Take the results of phono3py 4.10: one smearing, one temperature."""
    matrix = np.asarray(found.mode_kappa_matrix)[0, 0]
    capacities = np.asarray(found.mode_heat_capacities)[0]
    weights = np.asarray(found.grid_weights, dtype=np.float64)
    particle = np.einsum("qssc->c", matrix) / weights.sum()
    total = matrix.sum(axis=(0, 1, 2)) / weights.sum()
    modes = share_coherence(matrix, capacities)
    kappa = float(total[:3].mean())
    conductivity = Conductivity(
        temperature=temperature,
        kappa=kappa,
        modes=modes,
        weights=weights,
        q_points=np.asarray(found.qpoints),
        frequencies=np.asarray(found.frequencies),
    )
    lost = abs(modes.sum() / weights.sum() - kappa)
    # What is not finite of a pair of bands phono3py takes for zero.
    if not (0 < kappa < np.inf and lost <= _TOLERANCE * kappa):
        raise DivergenceError(
            f"the conductivity is {kappa:.5g} W/m/K, and its modes add up to "
            f"{modes.sum() / weights.sum():.5g}: the force constants make no crystal."
        )
    return Transport(conductivity, particle, total - particle, capacities)


def _share_threads() -> None:
    """Let the processes of a machine share its cores; read when Rust first starts."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes.rank()[1]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, cores // local)))
