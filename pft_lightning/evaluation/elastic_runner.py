"""Elastic constants of models on crystals, and their errors.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ase
import numpy as np
from phonopy import Phonopy

from pft_lightning.backends.base import check_model
from pft_lightning.data.crystals import check_bulk
from pft_lightning.data.elastic_tables import BULK, SHEAR
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation.crystals import list_materials
from pft_lightning.evaluation.elastic import ElasticConstants, elastic_constants
from pft_lightning.evaluation.elastic_tables import (
    holds_crystals,
    list_table,
    read_moduli,
)
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MAX_FORCE,
    MODEL,
    N_ATOMS,
    NAME,
    OK,
    RELAX_STEPS,
    SECONDS,
    STATUS,
    VOLUME_RATIO,
    EvaluationFolder,
    Record,
    Row,
    Summary,
    error_of,
    reference_of,
)
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.materials import Evaluated, Evaluator
from pft_lightning.evaluation.protocols import Protocol, get_protocol, relax
from pft_lightning.evaluation.reference import Material
from pft_lightning.evaluation.summary import make_summary, mean_and_median
from pft_lightning.evaluation.task import make_task
from pft_lightning.types import Engine


MODULI: Final = (BULK, SHEAR)
MAX_STRESS: Final = "max_stress"
STABLE: Final = "born_stable"
EIGENVALUE: Final = "lowest_eigenvalue"
INTERNAL: Final = "lowest_internal"
_OTHERS: Final = (
    *("young_modulus", "poisson_ratio", STABLE, EIGENVALUE),
    *(INTERNAL, "longitudinal_velocity", "transverse_velocity"),
    *("debye_temperature", "gruneisen", "slack_conductivity"),
)
_COMPONENTS: Final = {f"C{i + 1}{j + 1}": (i, j) for i in range(6) for j in range(i, 6)}
COLUMNS: Final = (
    *(NAME, FORMULA, N_ATOMS, MODEL, STATUS, ERROR),
    *(f(name) for name in MODULI for f in (str, reference_of, error_of)),
    *_OTHERS,
    *(MAX_STRESS, MAX_FORCE, VOLUME_RATIO, RELAX_STEPS, SECONDS),
    *_COMPONENTS,
)

# The cell of the file, as it is.
_CELL: Final = SupercellOptions(supercell_matrix=[1, 1, 1])


def evaluate_elastic(
    models: Potential | Mapping[str, Potential],
    structures: Spec,
    out: str | Path,
    *,
    reference: str | Path | None = None,
    protocol: str | Protocol = "mdr_analytic",
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Compute elastic constants of models, and compare moduli with a table.

    A crystal that fails is named with a reason; the others go on.

    Args:
        models: from ``load_model``, or several by label.
        structures: files, folders or globs of crystals, or a table with structures.
        out: folder to write.
        reference: table of moduli, see ``elastic_tables``; None compares nothing.
        protocol: whether the crystal is relaxed first, and how far.
        options: units and tolerance of structures.
        max_atoms: atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: show a progress bar.

    Raises:
        ConfigError: an option that cannot be used, or an ASE calculator.
        DataFormatError: a path matches nothing, or a table is none.
        StorageError: the disk is full, or the folder cannot be written.
    """
    work = _Elastic(
        make_task(models, get_protocol(protocol), max_atoms, engine),
        EvaluationFolder(out),
        {} if reference is None else read_moduli(reference),
    )
    for model in work.task.models.values():
        check_model(model)
    if holds_crystals(structures):
        materials = list_table(structures)
    else:
        options = options or PhononReadOptions()
        materials = list_materials(structures, _CELL, options, check=check_bulk)
    return work.evaluate(materials, noted, progress=progress)


def instability(row: Row) -> str | None:
    """Say why the moduli of a row are those of no stable crystal.

    Args:
        row: of any status.

    Returns:
        None where the crystal is stable, or has no moduli at all.
    """
    if row[STATUS] != OK:
        return None
    if row.get(INTERNAL, np.inf) <= 0:
        return (
            f"unstable: the ions are at no minimum ({row[INTERNAL]:.3g} eV/Å² is the "
            "lowest eigenvalue at Γ); relaxed constants have no meaning"
        )
    if not row[STABLE]:
        lowest = row[EIGENVALUE]
        return f"unstable: a strain lowers the energy ({lowest:.3g} GPa by Born)"
    return None


def total_errors(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and median absolute errors of stable crystals, GPa; how many are not."""
    stable = [row for row in rows if instability(row) is None]
    found: dict[str, Any] = {
        name: mean_and_median(
            abs(row[error_of(name)]) for row in stable if error_of(name) in row
        )
        for name in MODULI
    }
    return found | {
        "unstable": len(rows) - len(stable),
        SECONDS: sum(row.get(SECONDS) or 0.0 for row in rows),
    }


@dataclass(frozen=True, eq=False)
class _Elastic(Evaluator[Protocol, Phonopy]):
    """What is done with every crystal.

    Attributes:
        reference: moduli by the name of the crystal, GPa.
    """

    reference: Mapping[str, Mapping[str, float]]

    what = "elastic constants"
    columns = COLUMNS

    def keys_of(self, material: Material[Phonopy]) -> dict[str, str]:
        """What the row of each model on a crystal depends on."""
        known = sorted(self.reference.get(material.name, {}).items())
        keys = self.task.keys_of(material)
        return {label: digest([key, "elastic", known]) for label, key in keys.items()}

    def identify(self, material: Material[Phonopy], content: Phonopy) -> Row:
        """Columns that say which crystal a row is of."""
        return {
            NAME: material.name,
            FORMULA: content.unitcell.formula,
            N_ATOMS: len(content.unitcell),
        }

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up errors of moduli, and name crystals that are unstable."""
        return make_summary(
            rows,
            list(self.task.models),
            records,
            self.task.protocol,
            noted,
            totals=total_errors,
            reason=instability,
        )

    def row(self, label: str, material: Material[Phonopy], content: Phonopy) -> Row:
        """Moduli and constants of a model on a crystal."""
        started = time.perf_counter()
        model, protocol = self.task.models[label], self.task.protocol
        check_model(model)
        atoms, steps = _atoms_of(content), 0
        if protocol.relax:
            atoms, steps = relax(model, content, protocol)
            atoms.calc = None
        found = elastic_constants(
            model,  # type: ignore[arg-type]
            atoms,
            temperature=protocol.temperature,
            symprec=content.symmetry.tolerance,
            max_atoms=self.task.max_atoms,
            engine=self.task.engine,
        )
        row = {STATUS: OK, ERROR: "", **_values(found), RELAX_STEPS: steps}
        for modulus, value in self.reference.get(material.name, {}).items():
            row[reference_of(modulus)] = value
            row[error_of(modulus)] = row[modulus] - value
        row[VOLUME_RATIO] = float(atoms.get_volume() / content.unitcell.volume)
        row[SECONDS] = time.perf_counter() - started
        return row


def _atoms_of(cells: Phonopy) -> ase.Atoms:
    cell = cells.unitcell
    return ase.Atoms(
        numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
    )


def _values(found: ElasticConstants) -> Row:
    """Columns of elastic constants; what has no number is missing."""
    moduli, acoustic = found.moduli, found.acoustic
    others = (
        *(moduli.young, moduli.poisson, moduli.is_stable, moduli.lowest_eigenvalue),
        *(found.lowest_internal, acoustic.longitudinal, acoustic.transverse),
        *(acoustic.debye_temperature, acoustic.gruneisen, acoustic.slack),
    )
    values = {
        BULK: moduli.bulk,
        SHEAR: moduli.shear,
        **dict(zip(_OTHERS, others, strict=True)),
        MAX_STRESS: float(np.abs(found.stress).max()),
        MAX_FORCE: found.max_force,
        **{name: float(found.relaxed[place]) for name, place in _COMPONENTS.items()},
    }
    numbers = {name: value for name, value in values.items() if np.isfinite(value)}
    matrices = {"relaxed": found.relaxed, "clamped": found.clamped}
    return numbers | {name: matrix.tolist() for name, matrix in matrices.items()}
