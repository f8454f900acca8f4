"""Models beside measured frequencies, thermal properties and densities of states.

Frequencies are computed in the smallest cell that their q-point fits, so that nothing
is interpolated; thermal properties and densities of states by phonopy, on the mesh of
the protocol. How a folder is resumed, and processes share the work, is said in
``evaluation.materials``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms
from phonopy import Phonopy

from pft_lightning.data.crystals import Crystal
from pft_lightning.data.measured.crystals import (
    MeasuredCrystal,
    find_crystals,
    read_crystal,
)
from pft_lightning.data.measured.reading import read_measured
from pft_lightning.data.measured.rows import Density, MeasuredRows
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.names import source_state
from pft_lightning.data.settings import MeasuredReading
from pft_lightning.data.sources import Spec, skip_lines
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MIN_FREQUENCY,
    N_ATOMS,
    N_PRODUCTS,
    NAME,
    OK,
    RELAX_STEPS,
    SECONDS,
    SPECTRUM_W1,
    STATUS,
    VOLUME_RATIO,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.materials import Evaluated, Evaluator
from pft_lightning.evaluation.measured import columns
from pft_lightning.evaluation.measured.computed import Calculation, MeshProperties
from pft_lightning.evaluation.measured.content import (
    OPTION,
    THERMAL,
    MeasuredContent,
    to_plain,
)
from pft_lightning.evaluation.measured.table import write_values
from pft_lightning.evaluation.metrics import modes_of_mesh, spectrum_distance
from pft_lightning.evaluation.protocols import Protocol, get_protocol, relax
from pft_lightning.evaluation.reference import Material, file_name, number_names
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.task import make_task
from pft_lightning.physics.measurement import density_shares
from pft_lightning.types import Engine


_READING = MeasuredReading()


def evaluate_measured(
    models: Potential | Mapping[str, Potential],
    values: Spec,
    structures: Spec,
    out: str | Path,
    *,
    reading: MeasuredReading = _READING,
    protocol: str | Protocol = "dft_cell",
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Compare models with measured values of crystals.

    A crystal or model that fails is named with a reason; the others go on.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        values: files of measured values, as ``data.measured.train`` of a training.
        structures: files, folders or globs of the crystals that the values name.
        out: folder to write.
        reading: how values are read, and the supercell of thermal properties.
        protocol: whether each model relaxes the crystal first, how second derivatives
            are taken, and the mesh and temperatures of thermal properties.
        options: units and tolerance of structures.
        max_atoms: atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: show a progress bar.

    Raises:
        ConfigError: an option that cannot be used.
        DataFormatError: a file of values is none, or names a crystal that is not there.
        StorageError: the disk is full, or the folder cannot be written.
    """
    rows = read_measured(values, reading.frequency_unit, OPTION)
    options = options or PhononReadOptions()
    crystals, unnamed = find_crystals(
        structures, rows.structures(), "structures", options
    )
    if unnamed:
        warnings.warn("\n".join(skip_lines(unnamed)), stacklevel=2)
    materials = [
        _material(crystal, rows.of(name), reading, options)
        for name, crystal in sorted(crystals.items())
    ]
    task = make_task(models, get_protocol(protocol), max_atoms, engine)
    work = _Measured(task, EvaluationFolder(out))
    return work.evaluate(number_names(materials), noted, progress=progress)


def _material(
    crystal: Crystal,
    rows: MeasuredRows,
    reading: MeasuredReading,
    options: PhononReadOptions,
) -> Material[MeasuredContent]:
    state = [] if crystal.path is None else source_state(crystal.path)
    place = str(Path(crystal.source).absolute())
    choices = [asdict(reading), asdict(options)]
    return Material(
        name=file_name(crystal.name),
        source=crystal.source,
        fingerprint=digest([place, state, crystal.index, choices, to_plain(rows)]),
        read=partial(_read, crystal, rows, reading),
    )


def _read(
    crystal: Crystal, rows: MeasuredRows, reading: MeasuredReading
) -> MeasuredContent:
    content = MeasuredContent(read_crystal(crystal), rows, reading)
    for _, remark in content.remarks():
        warnings.warn(remark, stacklevel=2)
    return content


@dataclass(frozen=True, eq=False)
class _Measured(Evaluator[Protocol, MeasuredContent]):
    """What is done with every crystal."""

    folder: EvaluationFolder

    what = "measured values"
    columns = columns.COLUMNS

    def keys_of(self, material: Material[Any]) -> dict[str, str]:
        """What the row of each model on a crystal depends on."""
        keys = self.task.keys_of(material)
        return {label: digest([key, "measured"]) for label, key in keys.items()}

    def identify(self, material: Material[Any], content: MeasuredContent) -> Row:
        """Columns that say which crystal a row is of, and what was measured of it."""
        crystal, density = content.crystal, content.density()
        found: Row = {
            NAME: material.name,
            FORMULA: crystal.to_phonopy(np.eye(3, dtype=int)).unitcell.formula,
            N_ATOMS: crystal.n_atoms,
            columns.MEASURED: content.values(),
        }
        if density is not None:
            found[columns.MEASURED_DENSITY] = _to_modes(density, crystal)
        return found

    def row(self, label: str, material: Material[Any], content: MeasuredContent) -> Row:
        """Errors of a model on a crystal, and what it has in the places of values.

        Raises:
            RelaxationError: the crystal cannot be relaxed.
        """
        started = time.perf_counter()
        task = self.task
        model = task.models[label]
        calculation = Calculation(model, task.protocol, task.max_atoms, task.engine)
        crystal, steps = _relaxed(model, content.crystal, task.protocol)
        computed: list[float] = []
        n_products = 0
        for item in content.items(crystal):
            found, n = calculation.frequencies(item)
            computed += found.tolist()
            n_products += n
        mesh = None
        density = content.density()
        if content.rows.thermal or density is not None:
            mesh = calculation.on_mesh(crystal, content)
            n_products += mesh.n_products
            for quantity in content.thermal():
                computed += mesh.computed[quantity].tolist()
        row: Row = {STATUS: OK, ERROR: ""}
        row |= columns.errors_of(content.values(), computed)
        if mesh is not None:
            row |= _of_mesh(mesh, content, density, task.protocol)
        ratio = abs(np.linalg.det(crystal.cell) / np.linalg.det(content.crystal.cell))
        row |= {VOLUME_RATIO: float(ratio), RELAX_STEPS: steps, N_PRODUCTS: n_products}
        row[SECONDS] = time.perf_counter() - started
        return row

    def write(self, record: Record, content: MeasuredContent | None) -> None:
        """Write the record, which holds what was measured once and not by model."""
        for row in record["models"].values():
            row.pop(columns.MEASURED, None)
            row.pop(columns.MEASURED_DENSITY, None)
        super().write(record, content)

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up errors, and write the table of all values."""
        labels = list(self.task.models)
        if processes.rank()[0] == 0:
            write_values(self.folder.path / columns.VALUES_FILE, records, labels)
        measured = {
            record["name"]: cast(Any, record).get(columns.MEASURED, [])
            for record in records
        }
        return make_summary(
            rows,
            labels,
            records,
            self.task.protocol,
            noted,
            totals=partial(columns.total_errors, measured=measured),
            reason=columns.remark_of,
        )


def _relaxed(
    model: Potential, crystal: MeasuredCrystal, protocol: Protocol
) -> tuple[MeasuredCrystal, int]:
    """The crystal that a model is evaluated at, and the steps of its relaxation."""
    if not protocol.relax:
        return crystal, 0
    taken: list[int] = []

    def by_model(cells: Phonopy) -> Atoms:
        atoms, steps = relax(model, cells, protocol)
        taken.append(steps)
        return atoms

    return crystal.relaxed(by_model), sum(taken)


def _of_mesh(
    mesh: MeshProperties,
    content: MeasuredContent,
    density: Density | None,
    protocol: Protocol,
) -> Row:
    """Columns of sums over all modes, and curves for figures."""
    properties = mesh.properties
    lowest = float(properties.mesh_frequencies.min())
    curves: dict[str, Any] = {"temperatures": properties.temperatures.tolist()}
    measured = {value.quantity for value in content.rows.thermal}
    curves |= {
        name: getattr(properties, name).tolist() for name in THERMAL if name in measured
    }
    row: Row = {MIN_FREQUENCY: lowest, columns.CURVES: curves}
    if density is not None:
        row[columns.DENSITY] = {
            "points": properties.dos_frequencies.tolist(),
            "values": properties.dos.tolist(),
        }
        shares = density_shares(density.points, density.values)
        row[SPECTRUM_W1] = spectrum_distance(
            *modes_of_mesh(properties), density.points, shares
        )
    if lowest < -protocol.instability_threshold:
        row[columns.REMARK] = (
            f"unstable: the lowest frequency is {lowest:.3g} THz; thermal properties "
            "leave imaginary modes out"
        )
    return row


def _to_modes(density: Density, crystal: MeasuredCrystal) -> dict[str, list[float]]:
    """A measured density of states whose integral is the number of modes."""
    middles = (density.values[1:] + density.values[:-1]) / 2
    total = float(middles @ np.diff(density.points))
    scaled = density.values * (3 * crystal.n_atoms / total)
    return {"points": density.points.tolist(), "values": scaled.tolist()}
