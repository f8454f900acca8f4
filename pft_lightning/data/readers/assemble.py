"""From a ``phonopy.Phonopy`` object in a code's own units to a record in eV and Å."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import (
    StructureRecord,
    check_array,
    check_forces,
    validate,
)
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.force_constants import (
    Asymmetry,
    ForceConstants,
    from_phonopy,
    mean_stiffness,
    symmetrise,
)
from pft_lightning.units import UnitSystem


def build_record(
    phonon: Phonopy,
    *,
    path: Path,
    name: str,
    units: UnitSystem,
    units_from: str,
    options: PhononReadOptions,
    energy: float | None = None,
    nac_params: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> StructureRecord:
    """Make the record of a supercell, producing force constants where needed.

    Args:
        phonon: with force constants or a displacement data set, in its code's units.
        path: the file, for messages and provenance.
        name: of the material.
        units: of the numbers in ``phonon``.
        units_from: what told the units.
        options: of reading.
        energy: of the unit cell, in the code's unit; None where unknown.
        nac_params: phonopy's Born charges and dielectric tensor; None where unknown.
        notes: of the reader, on what it left out.

    Raises:
        DataFormatError: the data are incomplete, broken or too noisy.
    """
    where = str(path)
    info: dict[str, str | float] = {
        "source": where,
        "units": units.description,
        "units_from": units_from,
    }
    if notes:
        info["notes"] = " ".join(notes)
    if energy is not None:
        n_cells = len(phonon.supercell) / len(phonon.unitcell)
        energy = float(energy) * units.energy * n_cells
        info["energy_from"] = f"energy of the unit cell, times {n_cells:g}"
    cells = PhononCells.of(phonon, units, nac_params)
    record = record_of_supercell(
        phonon, name, units, options, cells=cells, energy=energy, info=info
    )
    validate(record, source=where)
    if phonon.force_constants is None:
        info["force_constants_from"] = _produce(phonon, where, units, options)
    else:
        info["force_constants_from"] = "file"
    raw, broken = from_phonopy(phonon)
    raw = replace(raw, compact=raw.compact * units.force_constants)
    check_array("force constants", raw.compact, raw.compact.shape, where)
    force_constants = remove_asymmetry(
        raw, _scaled(broken, units.force_constants), where, options, info
    )
    return validate(replace(record, force_constants=force_constants), source=where)


def record_of_supercell(
    phonon: Phonopy,
    name: str,
    units: UnitSystem,
    options: PhononReadOptions,
    *,
    cells: PhononCells,
    energy: float | None = None,
    info: dict[str, str | float] | None = None,
) -> StructureRecord:
    """Make the record of a supercell, without force constants; see ``build_record``.

    Args:
        phonon: with the supercell.
        name: of the material.
        units: of the numbers in ``phonon``.
        options: of reading.
        cells: of the record.
        energy: of the supercell, eV; None where unknown.
        info: of the record; it is kept, not copied.
    """
    supercell = phonon.supercell
    forces, stress = options.known_zeros(len(supercell))
    return StructureRecord(
        name=name,
        atomic_numbers=np.array(supercell.numbers, dtype=np.int64),
        positions=supercell.positions * units.length,
        cell=np.array(supercell.cell) * units.length,
        pbc=np.ones(3, dtype=bool),
        energy=energy,
        forces=forces,
        stress=stress,
        cells=cells,
        info={} if info is None else info,
    )


def remove_asymmetry(
    raw: ForceConstants,
    broken: Asymmetry,
    where: str,
    options: PhononReadOptions,
    info: dict[str, str | float],
) -> ForceConstants:
    """Symmetrise force constants, note what was removed, refuse too much of it.

    Raises:
        DataFormatError: more than ``options.max_asymmetry`` is broken, or more than
            ``options.max_relative_asymmetry`` of what binds the atoms.
    """
    info["removed_acoustic_sum_rule"] = broken.acoustic_sum_rule
    info["removed_permutation"] = broken.permutation
    info["removed_translation"] = broken.translation
    relative = broken.worst / max(abs(mean_stiffness(raw)), 1e-12)
    if (
        broken.worst > options.max_asymmetry
        or relative > options.max_relative_asymmetry
    ):
        raise DataFormatError(
            f"{where}: the force constants break the acoustic sum rule by "
            f"{broken.acoustic_sum_rule:.3g}, permutation symmetry by "
            f"{broken.permutation:.3g} and translation symmetry by "
            f"{broken.translation:.3g} eV/Å², {relative:.2g} of the mean of those of "
            "an atom with itself; at most "
            f"max_asymmetry={options.max_asymmetry:g} and "
            f"max_relative_asymmetry={options.max_relative_asymmetry:g} are accepted. "
            "The calculation is not converged, its cells do not belong together or its "
            "atoms are in another order: repeat it, or raise the limit."
        )
    return symmetrise(raw)


def _scaled(broken: Asymmetry, factor: float) -> Asymmetry:
    return Asymmetry(
        broken.acoustic_sum_rule * factor,
        broken.permutation * factor,
        broken.translation * factor,
    )


def _produce(
    phonon: Phonopy, where: str, units: UnitSystem, options: PhononReadOptions
) -> str:
    """Produce force constants from displacements; says with what."""
    dataset: Any = phonon.dataset
    if dataset is None or not ("first_atoms" in dataset or "displacements" in dataset):
        raise DataFormatError(
            f"{where}: neither force constants nor displacements with forces are in "
            "it. Add them (phonopy-init -f / --fc), or remove the file from the set."
        )
    calculator: Literal["traditional", "symfc"]
    if "first_atoms" in dataset:
        entries = dataset["first_atoms"]
        if not entries:
            raise DataFormatError(f"{where}: the list of displacements is empty.")
        check_displaced(entries, len(phonon.supercell), where, units, options)
        calculator = "symfc" if options.fc_calculator == "symfc" else "traditional"
        if calculator == "traditional":
            check_enough_displacements(phonon, dataset, where)
    else:
        check_random_displacements(phonon, dataset, where, units, options)
        calculator = "symfc"
    if calculator == "symfc":
        _check_fit_determined(phonon, dataset, where)
    phonon.produce_force_constants(
        fc_calculator=calculator, calculate_full_force_constants=False
    )
    return "finite differences" if calculator == "traditional" else "fit by symfc"


def check_displaced(
    entries: Sequence[Mapping[str, Any]],
    n_atoms: int,
    where: str,
    units: UnitSystem,
    options: PhononReadOptions,
    *,
    kind: str = "displacement",
    file: str = "FORCE_SETS",
) -> None:
    """Check calculations with displaced atoms, one entry of a data set each.

    Args:
        entries: ``number``, ``displacement`` and ``forces``.
        n_atoms: of the supercell.
        where: the file, for messages.
        units: of the numbers.
        options: limits.
        kind: what an entry is called.
        file: that may bring the forces.

    Raises:
        DataFormatError: names the entry, the value and what to do.
    """
    for number, entry in enumerate(entries, start=1):
        what = f"{kind} {number} of {len(entries)}"
        if not 0 <= entry["number"] < n_atoms:
            raise DataFormatError(
                f"{where}: {what} moves atom {entry['number'] + 1}; the supercell has "
                f"{n_atoms} atoms. Forces and cells do not belong together."
            )
        if "forces" not in entry:
            raise DataFormatError(
                f"{where}: {what} has no forces. Run that calculation, or give "
                f"{file} beside the file."
            )
        shape = (n_atoms, 3)
        check_array(f"displacement of {what}", entry["displacement"], (3,), where)
        check_array(f"forces of {what}", np.asarray(entry["forces"]), shape, where)
        _check_displacements(entry["displacement"], where, units, options)
        forces = np.asarray(entry["forces"]) * units.force
        check_forces(forces, f"{where}, {what}", max_force=options.max_force)


def check_random_displacements(
    phonon: Phonopy,
    dataset: Any,
    where: str,
    units: UnitSystem,
    options: PhononReadOptions,
) -> None:
    """Check displacements of all atoms, and forces on them.

    Raises:
        DataFormatError: names the value and what to do.
    """
    displacements = np.asarray(dataset["displacements"])
    if dataset.get("forces") is None:
        raise DataFormatError(
            f"{where}: {len(displacements)} random displacements have no forces. Run "
            "the calculations, or give FORCE_SETS beside the file."
        )
    shape = (len(displacements), len(phonon.supercell), 3)
    forces = np.asarray(dataset["forces"])
    check_array("displacements", displacements, shape, where)
    check_array("forces", forces, shape, where)
    _check_displacements(displacements, where, units, options)
    check_forces(forces * units.force, where, max_force=options.max_force)


def _check_displacements(
    displacements: np.ndarray,
    where: str,
    units: UnitSystem,
    options: PhononReadOptions,
) -> None:
    lengths = np.linalg.norm(displacements, axis=-1) * units.length
    if lengths.max() > options.max_displacement:
        raise DataFormatError(
            f"{where}: an atom is displaced by {lengths.max():.3g} Å; at most "
            f"max_displacement={options.max_displacement:g} is accepted, since forces "
            "so far from the minimum are no second derivatives. Leave the file out, or "
            "give it as upstream data."
        )


def check_enough_displacements(phonon: Any, dataset: Any, where: str) -> None:
    """Check that symmetry turns the displacements into three directions per atom.

    phonopy solves an underdetermined set by a pseudo-inverse without a word, which
    gives force constants that are too soft.

    Args:
        phonon: ``Phonopy`` or ``Phono3py``, of which supercell and symmetry are taken.
        dataset: of single displacements.
        where: the file, for messages.

    Raises:
        DataFormatError: there are too few.
    """
    symmetry = phonon.symmetry
    orbits = symmetry.get_map_atoms()
    cell = np.asarray(phonon.supercell.cell)
    to_cartesian = cell.T
    directions: dict[int, list[np.ndarray]] = {int(atom): [] for atom in set(orbits)}
    for entry in dataset["first_atoms"]:
        fractional = np.linalg.solve(to_cartesian, entry["displacement"])
        site = symmetry.get_site_symmetry(entry["number"])
        images = np.asarray(site) @ fractional @ cell
        directions[int(orbits[entry["number"]])].extend(images)
    for atom, vectors in directions.items():
        rank = int(np.linalg.matrix_rank(np.array(vectors), tol=1e-6)) if vectors else 0
        if rank < 3:
            symbol = phonon.supercell.symbols[atom]
            raise DataFormatError(
                f"{where}: the displacements and the symmetry give {rank} of 3 "
                f"directions for atom {atom + 1} ({symbol}). A displaced calculation "
                "is missing: run all that phonopy-init -d lists."
            )


def _check_fit_determined(phonon: Phonopy, dataset: Any, where: str) -> None:
    """Check that there are at least as many forces as free parameters of the fit."""
    from phonopy.interface.symfc import SymfcFCSolver

    solver = SymfcFCSolver(phonon.supercell, symmetry=phonon.symmetry)
    n_parameters = solver.estimate_basis_size(orders=[2])[2]
    frames = dataset["first_atoms" if "first_atoms" in dataset else "displacements"]
    n_forces = 3 * len(phonon.supercell) * len(frames)
    if n_forces < n_parameters:
        raise DataFormatError(
            f"{where}: {len(frames)} displaced structures give {n_forces} forces for "
            f"{n_parameters} free force constants. Add at least "
            f"{-(-n_parameters // (3 * len(phonon.supercell))) - len(frames)} more."
        )
