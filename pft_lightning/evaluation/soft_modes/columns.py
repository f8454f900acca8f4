"""What a row of an evaluation of soft modes holds, and what is made of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ase
import numpy as np

from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MODEL,
    N_ATOMS,
    N_PRIMITIVE,
    NAME,
    OK,
    RELAX_STEPS,
    SECONDS,
    STATUS,
    VOLUME_RATIO,
    Row,
    reference_of,
)
from pft_lightning.evaluation.metrics import (
    count_found,
    count_imaginary,
    find_agreement,
)
from pft_lightning.evaluation.soft_modes.modes import (
    SupercellWaves,
    find_soft_modes,
)
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.phases import Generation
from pft_lightning.evaluation.soft_modes.symmetry import (
    is_same_phase,
    space_group,
    space_groups,
)


LOWEST: Final = "lowest_frequency"
N_SOFT: Final = "soft_modes"
SAME_AS: Final = "same_phase_as"
SAME_AS_REFERENCE: Final = "same_phase_as_reference"
PARENT_GROUP: Final = "parent_group"
END_GROUP: Final = "end_group"
END_ENERGY: Final = "end_energy"
END_STABLE: Final = "end_stable"
DEPTH: Final = "well_depth"
WELLS: Final = "wells"
IMAGINARY: Final = "imaginary"
STRUCTURE: Final = "structure"
_PROBLEM: Final = "problem"
COLUMNS: Final = (
    *(NAME, FORMULA, N_ATOMS, N_PRIMITIVE, MODEL, STATUS, ERROR),
    *(LOWEST, reference_of(LOWEST), N_SOFT, reference_of(N_SOFT)),
    *("q_point", PARENT_GROUP, DEPTH, "well_group", "left_out"),
    *("generations", END_GROUP, END_ENERGY, "end_lowest_frequency", END_STABLE),
    *("is_subgroup", SAME_AS, SAME_AS_REFERENCE),
    *(VOLUME_RATIO, RELAX_STEPS, SECONDS),
)


def values_of(generations: Sequence[Generation], options: SoftModeOptions) -> Row:
    """Columns of what a potential makes of a crystal, and all details beside them.

    Energies of columns are meV: of wells per primitive cell, of ends per atom.
    """
    first, last = generations[0], generations[-1]
    followed = [one.end for one in generations if one.end is not None]
    symprec = options.symprec
    atoms, energy = last.atoms, last.energy
    unknown = last.end if last.error else None
    if unknown is not None:
        atoms, energy = unknown.atoms, last.energy + unknown.energy
    row: Row = {
        LOWEST: _lowest(first.waves),
        N_SOFT: len(first.modes),
        PARENT_GROUP: _symbol(first.atoms, symprec),
        "left_out": sum(one.left_out for one in generations),
        "generations": len(generations) - 1,
        END_GROUP: _symbol(atoms, symprec),
        END_ENERGY: 1e3 * (energy - first.energy),
        "is_subgroup": all(end.is_subgroup for end in followed),
        STRUCTURE: to_plain(atoms),
        _PROBLEM: _problem(generations),
    }
    if unknown is None:
        row |= {"end_lowest_frequency": _lowest(last.waves), END_STABLE: not last.modes}
    if first.modes:
        row["q_point"] = _point(first.modes[0].q_point)
    if first.wells:
        deepest = min(first.wells, key=lambda well: well.depth)
        row[DEPTH] = 1e3 * deepest.depth
        row["well_group"] = _symbol(deepest.cell.at(deepest.minimum), symprec)
    return row | {
        "modes": [_modes(one) for one in generations],
        WELLS: [_wells(one, symprec) for one in generations],
        "ends": [_ends(one, options) for one in generations],
    }


def compare_modes(
    waves: SupercellWaves, reference: SupercellWaves, options: SoftModeOptions
) -> Row:
    """Columns of a comparison with the imaginary modes of DFT, at every threshold.

    At each commensurate q-point the model has some imaginary modes and DFT has some:
    see ``metrics.count_found``.
    """
    counts = {}
    for threshold in options.thresholds:
        model, dft = (
            count_imaginary(one.frequencies(), threshold) for one in (waves, reference)
        )
        counts[f"{threshold:g}"] = count_found(model, dft)
    return {
        reference_of(LOWEST): _lowest(reference),
        reference_of(N_SOFT): len(find_soft_modes(reference, options.threshold)),
        IMAGINARY: counts,
    }


def compare_phases(rows: dict[str, Row], symprec: float) -> None:
    """Say in the row of each model which others reach the same phase.

    Args:
        rows: by label.
        symprec: Å, of the space groups.
    """
    ends = {
        label: to_ase(row[STRUCTURE]) for label, row in rows.items() if STRUCTURE in row
    }
    for label, end in ends.items():
        same = [
            other
            for other, theirs in ends.items()
            if other != label and is_same_phase(end, theirs, symprec)
        ]
        rows[label][SAME_AS] = ";".join(same)


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts of a model, and precision and recall of its imaginary modes."""
    good = [row for row in rows if row[STATUS] == OK]
    soft = [row for row in good if row[N_SOFT]]
    compared = [row[SAME_AS_REFERENCE] for row in good if SAME_AS_REFERENCE in row]
    counts = [row[IMAGINARY] for row in good if IMAGINARY in row]
    return {
        "with_soft_modes": len(soft),
        "ended_stable": sum(bool(row.get(END_STABLE)) for row in soft),
        "ended_in_subgroup": sum(bool(row["is_subgroup"]) for row in soft),
        SAME_AS_REFERENCE: sum(compared) if compared else None,
        IMAGINARY: {
            threshold: find_agreement(one[threshold] for one in counts)
            for threshold in (counts[0] if counts else ())
        },
        SECONDS: sum(row.get(SECONDS) or 0.0 for row in rows),
    }


def problem_of(row: Row) -> str | None:
    """Why a row with soft modes has no end; None where it has, or needs none."""
    return row.get(_PROBLEM) or None


def to_plain(atoms: ase.Atoms) -> dict[str, Any]:
    """A crystal as a row has it."""
    return {
        "numbers": atoms.numbers.tolist(),
        "cell": atoms.cell.array.tolist(),
        "positions": atoms.positions.tolist(),
    }


def to_ase(structure: dict[str, Any]) -> ase.Atoms:
    """The crystal of a row."""
    return ase.Atoms(**structure, pbc=True)


def _lowest(waves: SupercellWaves) -> float:
    return float(waves.frequencies().min())


def _symbol(atoms: ase.Atoms, symprec: float) -> str:
    return space_group(atoms, symprec)[0]


def _point(q_point: np.ndarray) -> str:
    return " ".join(f"{component:.6g}" for component in q_point)


def _problem(generations: Sequence[Generation]) -> str:
    """Why soft modes are not followed to their end, as far as was asked for."""
    last = generations[-1]
    if last.error:
        return f"the end of soft modes is not known to be stable: {last.error}"
    if last.ends and last.end is None:
        return f"soft modes have no end: {last.ends[0].error}"
    if last.left_out and not last.wells:
        return (
            "soft modes are not followed: their directions need larger cells than "
            "soft_modes.max_cell_atoms"
        )
    return ""


def _modes(one: Generation) -> list[dict[str, Any]]:
    return [
        {
            "q_point": mode.q_point.tolist(),
            "frequency": mode.frequency,
            "eigenvalue": mode.eigenvalue,
            "degeneracy": mode.degeneracy,
            "arms": len(mode.star),
            "order": mode.order,
        }
        for mode in one.modes
    ]


def _wells(one: Generation, symprec: float) -> list[dict[str, Any]]:
    return [
        {
            "q_point": well.direction.mode.q_point.tolist(),
            "frequency": well.direction.mode.frequency,
            "arms": well.direction.arms,
            "group": _symbol(well.cell.at(well.minimum), symprec),
            "n_cells": well.cell.n_cells,
            "amplitudes": well.amplitudes.tolist(),
            "energies": well.energies.tolist(),
            "largest_displacement": well.cell.largest,
            "eigenvalue": well.direction.mode.eigenvalue,
            "curvature": well.curvature,
            "minimum": well.minimum,
            "depth": well.depth,
            "is_closed": well.is_closed,
            "is_even": well.direction.is_even,
        }
        for well in one.wells
    ]


def _ends(one: Generation, options: SoftModeOptions) -> list[dict[str, Any]]:
    return [
        {
            "q_point": end.well.direction.mode.q_point.tolist(),
            "arms": end.well.direction.arms,
            "groups": space_groups(end.atoms, {*options.tolerances, options.symprec}),
            "energy": end.energy,
            "positions_energy": end.positions_energy,
            RELAX_STEPS: end.steps,
            "is_subgroup": end.is_subgroup,
            ERROR: end.error,
        }
        for end in one.ends
    ]
