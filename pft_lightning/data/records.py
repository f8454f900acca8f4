"""One structure with what is known about it, checked, and its way into a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import vesin
from ase.data import chemical_symbols
from torch_geometric.data import Data

from pft_lightning import keys
from pft_lightning.data.cells import PhononCells
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import Graph, build_data
from pft_lightning.physics.force_constants import ForceConstants
from pft_lightning.units import GPA_PER_EV_PER_CUBIC_ANGSTROM


# Most cells that atoms may lie apart; graphs count up to 127, with the cutoff's reach.
MAX_CELLS_APART = 100

# Largest force that a calculation can mean, eV/Å. Two atoms of a molecular dynamics
# run that collide reach some tens; a broken or mis-scaled file reaches thousands.
MAX_FORCE = 1e3

# Largest component of a stress that a calculation can mean, eV/Å³: 1600 GPa, some ten
# times what experiments reach. A stress in kbar or GPa passes it soon.
MAX_STRESS = 10.0

# Largest energy that a calculation can mean, eV/atom. With all its electrons an atom of
# uranium has -760,000 eV.
MAX_ENERGY = 1e6

# Largest entry of the force constants, eV/Å². The stiffest bonds known (O-H, C≡N,
# N≡N) have about 150.
MAX_FORCE_CONSTANT = 1e3

# Nearest that two atoms may be, Å. The bond of H2 is 0.74.
MIN_DISTANCE = 0.3

# Longest lattice vector of a periodic direction, Å: that of a cell with a very large
# vacuum. What is longer is in another unit, and takes the memory of its grid.
MAX_LENGTH = 1e4

# Most images of a flat cell that the search of near atoms may visit.
_MAX_IMAGES = 100_000

# Radius in which near atoms are looked for, Å: the search makes a grid of boxes of
# this size, so that a radius of MIN_DISTANCE takes fifty times longer.
_SEARCH_RADIUS = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class StructureRecord:
    """A structure and its targets; a target that is None is unknown, so masked.

    Attributes:
        name: where the structure comes from, unique in a source.
        atomic_numbers: (n_atoms,), int64.
        positions: (n_atoms, 3), Å.
        cell: (3, 3), Å, lattice vectors as rows.
        pbc: (3,), bool.
        energy: eV, of the whole structure.
        forces: (n_atoms, 3), eV/Å.
        stress: (3, 3), eV/Å³, ASE's sign (tension positive).
        force_constants: eV/Å².
        cells: of the phonon calculation, of which the structure is the supercell; None
            for a molecule.
        masses: (n_atoms,), AMU, of the calculation of a molecule; None for the
            standard ones.
        weights: what the errors of energy, forces and stress count by in the loss.
        info: provenance: source file, unit conversion, removed asymmetry, ...
    """

    name: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    force_constants: ForceConstants | None = None
    cells: PhononCells | None = None
    masses: np.ndarray | None = None
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    info: dict[str, str | float] = field(default_factory=dict)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)


def to_data(record: StructureRecord, graph: Graph) -> Data:
    """Put a record and its graph into the neutral schema of ``keys.py``, in float64.

    Unknown targets are zero with their mask False. Force constants stay the object
    they are; collation makes a list of them.
    """
    data = build_data(
        record.atomic_numbers, record.positions, record.cell, record.pbc, graph
    )
    energy = 0.0 if record.energy is None else record.energy
    forces = np.zeros((record.n_atoms, 3)) if record.forces is None else record.forces
    stress = np.zeros((3, 3)) if record.stress is None else record.stress
    data[keys.ENERGY] = torch.tensor([energy], dtype=torch.float64)
    data[keys.FORCES] = torch.tensor(forces, dtype=torch.float64)
    data[keys.STRESS] = torch.tensor(stress, dtype=torch.float64).reshape(1, 3, 3)
    data[keys.ENERGY_MASK] = torch.tensor([record.energy is not None])
    data[keys.FORCES_MASK] = torch.tensor([record.forces is not None])
    data[keys.STRESS_MASK] = torch.tensor([record.stress is not None])
    data[keys.WEIGHTS] = torch.tensor([record.weights], dtype=torch.float64)
    data[keys.NAME] = record.name
    data[keys.HEAD] = str(record.info.get("head", ""))
    if record.force_constants is not None:
        data[keys.FORCE_CONSTANTS] = record.force_constants
        share = record.force_constants.share
        data[keys.SHARE] = torch.tensor([share], dtype=torch.float64)
    return data


def validate(
    record: StructureRecord,
    *,
    source: str | None = None,
    max_force: float = MAX_FORCE,
    max_stress: float = MAX_STRESS,
    max_energy: float = MAX_ENERGY,
) -> StructureRecord:
    """Check shapes, finiteness and sizes, and give the record back.

    Args:
        record: what a reader made.
        source: file named in messages; ``info["source"]`` or the name by default.
        max_force: largest component of a force, eV/Å.
        max_stress: largest component of the stress, eV/Å³.
        max_energy: largest energy, eV/atom.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    where = source or str(record.info.get("source", record.name))
    _check_structure(record, where)
    if record.energy is not None:
        _check_energy(record.energy, record.n_atoms, where, max_energy=max_energy)
    if record.forces is not None:
        check_array("forces", record.forces, (record.n_atoms, 3), where)
        check_forces(record.forces, where, max_force=max_force)
    if record.stress is not None:
        check_array("stress", record.stress, (3, 3), where)
        _check_stress(record.stress, where, max_stress=max_stress)
    if record.force_constants is not None:
        _check_force_constants(record.force_constants, record.n_atoms, where)
    return record


def check_array(
    name: str, array: np.ndarray, shape: tuple[int, ...], where: str
) -> None:
    """Check shape and finiteness of one array of a file.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    if array.shape != shape:
        raise DataFormatError(
            f"{where}: {name} has shape {array.shape}; expected {shape}. The file "
            "mixes two structures or is incomplete: write it again from the "
            "calculation."
        )
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataFormatError(
            f"{where}: {name}{list(index)} is {array[index]}; a finite number is "
            "needed. Repeat that calculation or remove the structure."
        )


def check_forces(forces: np.ndarray, where: str, *, max_force: float) -> None:
    """Refuse forces that no sound calculation gives, as wrong units or a bad run do.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    largest = float(np.abs(forces).max(initial=0.0))
    if largest > max_force:
        raise DataFormatError(
            f"{where}: the largest force is {largest:g} eV/Å; at most {max_force:g} is "
            "accepted. Check the units of the file and the convergence of that "
            "calculation, or raise max_force if it is meant."
        )


def _check_energy(
    energy: float, n_atoms: int, where: str, *, max_energy: float
) -> None:
    if not np.isfinite(energy):
        raise DataFormatError(
            f"{where}: the energy is {energy}; a finite number of eV is needed. "
            "Repeat the calculation or remove the structure."
        )
    if abs(energy) > max_energy * n_atoms:
        raise DataFormatError(
            f"{where}: the energy is {energy / n_atoms:g} eV/atom; at most "
            f"{max_energy:g} is accepted. Check the units of the file and that "
            "calculation, or raise max_energy if it is meant."
        )


def _check_stress(stress: np.ndarray, where: str, *, max_stress: float) -> None:
    largest = float(np.abs(stress).max())
    if largest > max_stress:
        gpa = GPA_PER_EV_PER_CUBIC_ANGSTROM
        raise DataFormatError(
            f"{where}: the largest stress is {largest:g} eV/Å³ ({largest * gpa:.3g} "
            f"GPa); at most {max_stress:g} is accepted. Is it in kbar or GPa? Divide "
            f"it by {10 * gpa:.2f} or {gpa:.3f} and write the file again, or raise "
            "max_stress if it is meant."
        )


def shortest_distance(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> float:
    """Find the shortest distance between two atoms, periodic images included.

    Returns:
        Å; infinity where all are farther than 2 Å.
    """
    neighbours = vesin.NeighborList(cutoff=_SEARCH_RADIUS, full_list=False)
    (distances,) = neighbours.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=np.ascontiguousarray(cell, dtype=np.float64),
        periodic=[bool(p) for p in pbc],
        quantities="d",
    )
    return float(np.min(distances, initial=np.inf))


def symbols_of(atomic_numbers: Iterable[int]) -> str:
    """Write a set of atomic numbers as sorted symbols, for messages."""
    return " ".join(chemical_symbols[number] for number in sorted(set(atomic_numbers)))


def _check_structure(record: StructureRecord, where: str) -> None:
    n_atoms = record.n_atoms
    if n_atoms == 0:
        raise DataFormatError(f"{where}: the structure has no atoms; remove it.")
    check_array("positions", record.positions, (n_atoms, 3), where)
    check_array("cell", record.cell, (3, 3), where)
    numbers = record.atomic_numbers
    if numbers.min() < 1 or numbers.max() >= len(chemical_symbols):
        raise DataFormatError(
            f"{where}: atomic numbers run from {numbers.min()} to {numbers.max()}; "
            f"expected 1 to {len(chemical_symbols) - 1}. Ghost or unknown species "
            "must be removed."
        )
    check_cell(record.cell, record.pbc, n_atoms, where)
    _check_images(record, where)
    nearest = shortest_distance(record.positions, record.cell, record.pbc)
    if too_near(nearest):
        raise DataFormatError(
            f"{where}: two atoms are {nearest:.3g} Å apart; at least {MIN_DISTANCE} Å "
            "is needed. Check the positions and the unit of length."
        )


def _check_images(record: StructureRecord, where: str) -> None:
    """Refuse atoms that drifted so many cells apart that a graph cannot say how far."""
    if not record.pbc.any():
        return
    # Of vectors that are missing, along which nothing is periodic, nothing is known.
    fractions = record.positions @ np.linalg.pinv(record.cell)
    apart = float(np.ptp(fractions[:, record.pbc], axis=0).max())
    if apart > MAX_CELLS_APART:
        raise DataFormatError(
            f"{where}: two atoms are {apart:.4g} cells apart; at most "
            f"{MAX_CELLS_APART} is accepted. Wrap the atoms into the cell."
        )


def check_cell(cell: np.ndarray, pbc: np.ndarray, n_atoms: int, where: str) -> None:
    """Refuse a lattice that no crystal has, before anything is computed with it.

    Args:
        cell: (3, 3), Å, finite.
        pbc: (3,).
        n_atoms: in the cell.
        where: file, for messages.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    longest = float(np.abs(cell[pbc]).max(initial=0.0))
    if longest > MAX_LENGTH:
        raise DataFormatError(
            f"{where}: the cell has a vector of {longest:.3g} Å; at most "
            f"{MAX_LENGTH:g} is accepted. Check the unit of length."
        )
    if not pbc.all():
        # A length or an area for one or two periodic vectors.
        periodic = cell[pbc]
        extent = float(np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0)))
        if pbc.any() and extent < MIN_DISTANCE:
            raise DataFormatError(
                f"{where}: the structure is periodic along {int(pbc.sum())} lattice "
                f"vectors that span {extent:g} Å (or Å²); they are missing or "
                "parallel. Write the cell again, or pbc without them."
            )
        return
    volume = abs(float(np.linalg.det(cell)))
    areas = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    if (
        volume < 1e-3 * n_atoms
        or np.prod(1.0 + 2.0 * _SEARCH_RADIUS * areas / volume) > _MAX_IMAGES
    ):
        raise DataFormatError(
            f"{where}: the cell has a volume of {volume:g} Å³ for {n_atoms} atoms and "
            f"vectors of {np.round(np.linalg.norm(cell, axis=1), 6).tolist()} Å; its "
            "lattice vectors are missing or parallel. Write the cell again."
        )


def too_near(distance: float) -> bool:
    """Tell whether two atoms cannot be as near as this, Å."""
    return distance < MIN_DISTANCE


def _check_force_constants(
    force_constants: ForceConstants, n_atoms: int, where: str
) -> None:
    compact = force_constants.compact
    shape = (force_constants.n_primitive, n_atoms, 3, 3)
    check_array("force constants", compact, shape, where)
    largest = float(np.abs(compact).max())
    if largest > MAX_FORCE_CONSTANT:
        raise DataFormatError(
            f"{where}: the largest force constant is {largest:g} eV/Å²; at most "
            f"{MAX_FORCE_CONSTANT:g} is accepted. Check the units of the file."
        )
    representatives = force_constants.representatives()
    rows = np.arange(force_constants.n_primitive)
    stiffness = np.einsum("iaa->i", compact[rows, representatives])
    if stiffness.sum() <= 0.0:
        raise DataFormatError(
            f"{where}: the force constants of atoms with themselves sum to "
            f"{stiffness.sum():g} eV/Å²; near a minimum the sum is positive. Their "
            "sign is flipped (+d²E/dr² is needed) or their layout is another one."
        )
