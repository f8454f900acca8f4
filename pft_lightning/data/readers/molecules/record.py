"""From the Hessian of an isolated molecule, as any file gives it, to a record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from ase.data import atomic_masses, chemical_symbols, covalent_radii
from ase.units import Bohr

from pft_lightning.data.readers.hessian_layout import hessian_to_force_constants
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import StructureRecord, check_array, validate
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.molecules import (
    BrokenInvariance,
    force_constants_of,
    hessian_of,
    impose_invariance,
)
from pft_lightning.units import HESSIAN_UNITS, HessianUnit


# Stiffness along the stiffest bond, eV/Å²: of two non-metals from that of I2 (11) to
# that of the ions of N2 and CO (160), of light ones from that of the hydrogen bond of
# FHF- (14) on, of any atoms from that of Cs2 (0.4) on; with room for stretched and for
# doubtful ones.
_SOFTEST_BOND, _SOFTEST_METALLIC_BOND, _STIFFEST_BOND = 5.0, 0.3, 250.0
_SOFTEST_LIGHT_BOND = 10.0

# Atoms are bonded up to this many times the sum of their covalent radii; F2 is at 1.24.
_BOND_LENGTH = 1.3

_NON_METALS = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 52, 53)

# Two atoms are not nearer than this many times the sum of their covalent radii: N2 is
# at 0.77, two molybdenum atoms with six bonds at 0.63.
_NEAREST = 0.6
_NEAREST_METALLIC = 0.5

# Bonds that are this long are broken: N2 in bohr is at 1.46.
_FARTHEST = 1.4

# Largest force constant of atoms without a bond, eV/Å²; that of two of argon is 0.05.
_STIFFEST_UNBOUND = 0.3

# Masses of an element's isotopes relative to its standard one: those of hydrogen from
# muonium to what molecular dynamics takes for it, which it takes from others.
_HYDROGEN_MASSES = (0.1, 4.2)
_MASSES = (0.45, 1.35)


@dataclass(frozen=True, slots=True, eq=False)
class MolecularHessian:
    """What a file says of a molecule.

    Attributes:
        name: of the molecule.
        atomic_numbers: (n_atoms,).
        positions: (n_atoms, 3), Å.
        hessian: (3N, 3N), or another common layout, in ``unit``.
        unit: of the Hessian, a name of ``HESSIAN_UNITS``.
        unit_from: what tells it.
        energy: eV; None where unknown, or where it is on a scale of its own.
        forces: (n_atoms, 3), eV/Å; None where unknown.
        masses: (n_atoms,), AMU; None for the standard ones.
        weights: of errors of energy, forces and stress in the loss.
        notes: on what was left out.
    """

    name: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    hessian: np.ndarray
    unit: HessianUnit
    unit_from: str
    energy: float | None = None
    forces: np.ndarray | None = None
    masses: np.ndarray | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    notes: list[str] = field(default_factory=list)


def build_molecule(
    found: MolecularHessian, where: str, options: PhononReadOptions
) -> StructureRecord:
    """Make the record of an isolated molecule, without a lattice.

    Args:
        found: content of the file.
        where: file, and place in it, for messages.
        options: of reading.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    n_atoms = len(found.atomic_numbers)
    if n_atoms < 2:
        raise DataFormatError(
            f"{where}: has {n_atoms} atoms; at least 2 are needed, since a single one "
            "has no vibrations. Remove it."
        )
    info: dict[str, str | float] = {
        "source": where,
        "units": found.unit,
        "units_from": found.unit_from,
        "force_constants_from": "hessian",
    }
    forces = found.forces
    if forces is None:
        forces, _ = options.known_zeros(n_atoms)
    record = StructureRecord(
        name=found.name,
        atomic_numbers=np.asarray(found.atomic_numbers, dtype=np.int64),
        positions=np.asarray(found.positions, dtype=np.float64),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        energy=found.energy,
        forces=forces,
        masses=_check_masses(found.masses, found.atomic_numbers, where),
        weights=found.weights,
        info=info,
    )
    # Atoms and positions before anything is computed of them.
    validate(record, source=where, max_force=options.max_force)
    blocks = hessian_to_force_constants(np.asarray(found.hessian), n_atoms, where)
    check_array("hessian", blocks, (n_atoms, n_atoms, 3, 3), where)
    hessian = hessian_of(blocks) * HESSIAN_UNITS[found.unit]
    _check_unit(hessian, record, found, where)
    hessian, broken = impose_invariance(hessian, record.positions, forces)
    _check_broken(broken, hessian, where, options)
    info["removed_acoustic_sum_rule"] = broken.translation
    info["removed_permutation"] = broken.permutation
    if broken.rotation is not None:
        info["removed_rotation"] = broken.rotation
    if found.notes:
        info["notes"] = " ".join(found.notes)
    whole = replace(record, force_constants=force_constants_of(hessian))
    return validate(whole, source=where, max_force=options.max_force)


def refuse_periodic(pbc: np.ndarray, where: str) -> None:
    """Refuse a structure with a lattice.

    Raises:
        DataFormatError: it is periodic along some direction.
    """
    if np.any(pbc):
        raise DataFormatError(
            f"{where}: is periodic (pbc {' '.join('FT'[int(p)] for p in pbc)}); "
            "isolated molecules are read from it. For a molecule in a box write it "
            "with pbc F F F; give crystals as phonopy files."
        )


def _check_masses(
    masses: np.ndarray | None, numbers: np.ndarray, where: str
) -> np.ndarray | None:
    if masses is None:
        return None
    masses, numbers = np.asarray(masses, dtype=np.float64), np.asarray(numbers)
    check_array("masses", masses, (len(numbers),), where)
    is_hydrogen = (numbers == 1)[:, None]
    bounds = np.where(is_hydrogen, _HYDROGEN_MASSES, _MASSES)
    least, most = (bounds * atomic_masses[numbers, None]).T
    wrong = np.flatnonzero((masses < least) | (masses > most))
    if len(wrong):
        first = wrong[0]
        raise DataFormatError(
            f"{where}: the mass of atom {first + 1} ({chemical_symbols[numbers[first]]}"
            f") is {masses[first]:g} AMU; its isotopes have {least[first]:.3g} to "
            f"{most[first]:.3g}. Masses or atoms are wrong, or in another order: "
            "correct the file."
        )
    return masses


def _check_unit(
    hessian: np.ndarray, record: StructureRecord, found: MolecularHessian, where: str
) -> None:
    """Refuse a Hessian whose stiffest bond no molecule has: its unit is another one."""
    lengths, sums = _distances(record)
    _check_distances(lengths, sums, record, where)
    bond = _stiffest_bond(hessian, record)
    if bond is None:
        _check_unbound(hessian, lengths / sums, record.atomic_numbers, where)
        return
    stiffness, first, second = bond
    high = _STIFFEST_BOND
    low = _SOFTEST_BOND
    pair = record.atomic_numbers[[first, second]]
    if np.isin(pair, _NON_METALS).all() and pair.max() < 10:
        low = _SOFTEST_LIGHT_BOND
    elif not np.isin(pair, _NON_METALS).all():
        low = _SOFTEST_METALLIC_BOND
    if low <= stiffness <= high:
        return
    symbols = [chemical_symbols[record.atomic_numbers[i]] for i in (first, second)]
    as_written = stiffness / HESSIAN_UNITS[found.unit]
    likely = [
        f"{name} ({as_written * factor:.3g})"
        for name, factor in HESSIAN_UNITS.items()
        if low <= as_written * factor <= high
    ]
    others = f" It would be plausible in {' or '.join(likely)}." if likely else ""
    raise DataFormatError(
        f"{where}: the stiffest bond ({symbols[0]}-{symbols[1]}, atoms {first + 1} and "
        f"{second + 1}) has {stiffness:.3g} eV/Å² with the Hessian in {found.unit} "
        f"({found.unit_from}), the unit expected here; bonds have {low:g} to {high:g}."
        f"{others} Convert the Hessian, or say its unit with options.hessian_units "
        "where the format has none."
    )


def _distances(record: StructureRecord) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all pairs of atoms, and the sums of their covalent radii, Å."""
    first, second = np.triu_indices(len(record.atomic_numbers), k=1)
    vectors = record.positions[second] - record.positions[first]
    radii = covalent_radii[record.atomic_numbers]
    return np.linalg.norm(vectors, axis=1), radii[first] + radii[second]


def _check_distances(
    lengths: np.ndarray, sums: np.ndarray, record: StructureRecord, where: str
) -> None:
    """Refuse atoms nearer than any are: positions are in another unit than is said."""
    first, second = np.triu_indices(len(record.atomic_numbers), k=1)
    light = np.isin(record.atomic_numbers, _NON_METALS)
    least = np.where(light[first] & light[second], _NEAREST, _NEAREST_METALLIC) * sums
    near = int(np.argmin(lengths / least))
    if lengths[near] >= least[near]:
        return
    i, j = int(first[near]), int(second[near])
    symbols = [chemical_symbols[record.atomic_numbers[k]] for k in (i, j)]
    raise DataFormatError(
        f"{where}: atoms {i + 1} and {j + 1} ({symbols[0]}-{symbols[1]}) are "
        f"{lengths[near]:.3g} Å apart; at least {least[near]:.3g} is expected. Are the "
        "positions in the unit that the format has (bohr in ORCA's and Gaussian's "
        "files, Å in others)? Correct them."
    )


def _check_unbound(
    hessian: np.ndarray, ratios: np.ndarray, numbers: np.ndarray, where: str
) -> None:
    """Refuse stiff atoms far from each other: positions are in a smaller unit.

    Args:
        hessian: eV/Å².
        ratios: of distances to the sums of covalent radii.
        numbers: of the atoms in the periodic table.
        where: for messages.
    """
    stiffest, nearest = float(np.abs(hessian).max()), float(ratios.min())
    # Bonds of one electron, as in H2+, are long; others break before they are.
    is_small = max(numbers) <= 2
    if stiffest <= _STIFFEST_UNBOUND or nearest < _FARTHEST or is_small:
        return
    likely = " They look like bohr." if nearest * Bohr < _BOND_LENGTH else ""
    raise DataFormatError(
        f"{where}: no two atoms are near enough for a bond (the nearest at "
        f"{nearest:.3g} times the sum of their covalent radii), and the largest force "
        f"constant is {stiffest:.3g} eV/Å². Positions are expected in Å.{likely} "
        "Convert them, and the Hessian."
    )


def _stiffest_bond(
    hessian: np.ndarray, record: StructureRecord
) -> tuple[float, int, int] | None:
    """Give the largest stiffness along a bond, and its atoms.

    That of two non-metals where there is one; None without any bond.
    """
    numbers, positions = record.atomic_numbers, record.positions
    first, second = np.triu_indices(len(numbers), k=1)
    vectors = positions[second] - positions[first]
    lengths = np.linalg.norm(vectors, axis=1)
    radii = covalent_radii[numbers]
    bonded = lengths < _BOND_LENGTH * (radii[first] + radii[second])
    light = np.isin(numbers, _NON_METALS)
    covalent = bonded & light[first] & light[second]
    chosen = np.flatnonzero(covalent if covalent.any() else bonded)
    if not len(chosen):
        return None
    first, second = first[chosen], second[chosen]
    directions = vectors[chosen] / lengths[chosen, None]
    blocks = hessian.reshape(len(numbers), 3, len(numbers), 3)[first, :, second]
    stiffness = -np.einsum("na,nab,nb->n", directions, blocks, directions)
    most = int(np.argmax(np.abs(stiffness)))
    return float(stiffness[most]), int(first[most]), int(second[most])


def _check_broken(
    broken: BrokenInvariance,
    hessian: np.ndarray,
    where: str,
    options: PhononReadOptions,
) -> None:
    """Refuse a Hessian that is too far from one that an energy can have."""
    stiffness = abs(float(np.trace(hessian))) / len(hessian)
    limit = min(options.max_asymmetry, options.max_relative_asymmetry * stiffness)
    said = (
        f"at most {limit:.3g} is accepted (max_asymmetry="
        f"{options.max_asymmetry:g} eV/Å², max_relative_asymmetry="
        f"{options.max_relative_asymmetry:g} of the mean stiffness)"
    )
    if broken.permutation > limit:
        raise DataFormatError(
            f"{where}: the Hessian is not symmetric: it differs from its transpose by "
            f"{broken.permutation:.3g} eV/Å²; {said}. Its atoms are in another order, "
            "it was cut off, or it is not converged: write it again."
        )
    if broken.translation > limit:
        raise DataFormatError(
            f"{where}: moving the whole molecule changes forces by "
            f"{broken.translation:.3g} eV/Å²; {said}. The Hessian belongs to another "
            "molecule, is only a part, or is not converged: repeat it."
        )
    if broken.rotation is None or broken.rotation <= limit:
        return
    assert broken.rotation_expected is not None
    if broken.rotation_found < 0.1 * broken.rotation_expected:
        raise DataFormatError(
            f"{where}: rotations are projected out of the Hessian, but the forces at "
            f"its geometry turn with the molecule by {broken.rotation_expected:.3g} "
            f"eV/Å²; {said}. It is no second derivative: give the Hessian before the "
            "projection, or that of a relaxed geometry."
        )
    raise DataFormatError(
        f"{where}: turning the molecule changes forces by {broken.rotation:.3g} eV/Å² "
        f"beside what its forces give; {said}. Geometry and Hessian do not belong "
        "together, or the geometry is not relaxed: give its forces, or options."
        "relaxed=none."
    )
