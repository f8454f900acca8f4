"""Conductivities of models on crystals, shared among processes and resumed.

As evaluations of phonons (``evaluation.runner``), every material is written when it is
done, and the same call into the same folder computes what is not there yet. What a
material needs is kept stage by stage (``stages``), so that an interruption costs one
stage, and a change of the protocol costs what depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.third_order import check_phono3py
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.conductivity.cells import ConductivityCells
from pft_lightning.evaluation.conductivity.leaderboard import write_leaderboard
from pft_lightning.evaluation.conductivity.protocol import (
    ConductivityProtocol,
    get_protocol,
)
from pft_lightning.evaluation.conductivity.reference import (
    ReferenceCrystal,
    References,
    read_conductivities,
)
from pft_lightning.evaluation.conductivity.rows import (
    COLUMNS,
    choose_mesh,
    columns_of,
    failed_scores,
    find_reference,
    identify,
    scores,
)
from pft_lightning.evaluation.conductivity.stages import KAPPA_FILE, Stages
from pft_lightning.evaluation.conductivity.structures import (
    ConductivityOptions,
    list_crystals,
)
from pft_lightning.evaluation.conductivity.summary import (
    ConductivitySummary,
    summarise_conductivity,
)
from pft_lightning.evaluation.conductivity.totals import COMPUTED, OUTCOME
from pft_lightning.evaluation.failures import (
    check_failure,
    describe,
    failed_row,
    is_lasting,
)
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    MODEL,
    OK,
    SECONDS,
    STATUS,
    EvaluationFolder,
    Record,
    Row,
)
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.records import readable_record, unreadable_record
from pft_lightning.evaluation.reference import Material
from pft_lightning.evaluation.sharing import compute_records
from pft_lightning.evaluation.stored import find_finished
from pft_lightning.evaluation.task import Task, make_task
from pft_lightning.files import remove_partials


_OPTIONS = ConductivityOptions()


@dataclass(frozen=True, slots=True, eq=False)
class ConductivityEvaluation:
    """Everything an evaluation of conductivities computed.

    Attributes:
        rows: one per material and model, see ``summary.COLUMNS``.
        summary: totals, counts, failures, and what a report shows.
        folder: that was written.
        leaderboard: files in it, by the label of the model.
    """

    rows: list[Row]
    summary: ConductivitySummary
    folder: Path
    leaderboard: dict[str, Path]


def evaluate_conductivity(
    models: Potential | Mapping[str, Potential],
    structures: Spec,
    out: str | Path,
    *,
    reference: str | Path | None = None,
    protocol: str | ConductivityProtocol = "matbench",
    supercells: ConductivityOptions = _OPTIONS,
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    versions: Mapping[str, str] | None = None,
    progress: bool = True,
) -> ConductivityEvaluation:
    """Compute thermal conductivities of models, and compare them with DFT.

    A crystal on which a model fails (it is unstable, loses its symmetry, a relaxation
    explodes, forces are not finite) has the worst scores and a reason; the others go
    on.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        structures: see ``structures.list_crystals``.
        out: folder to write.
        reference: table of DFT mode by mode, see ``reference.read_conductivities``;
            None scores nothing.
        protocol: ``matbench``, ``k_srme`` or a ``ConductivityProtocol``.
        supercells: of crystals whose files name none.
        options: units and tolerance of structures.
        max_atoms: Atoms of one pass; what bounds memory.
        versions: to note in the summary.
        progress: Show progress bars.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
        ConfigError: a label, option or protocol that cannot be used.
        DataFormatError: a path matches nothing, or the reference is no table.
        StorageError: the disk is full, or the folder cannot be written.
    """
    check_phono3py()
    protocol = get_protocol(protocol)
    work = _Work(
        task=make_task(models, protocol, max_atoms, None, libraries=("phono3py",)),
        folder=EvaluationFolder(out),
        references=(
            None
            if reference is None
            else read_conductivities(reference, protocol.temperature)
        ),
        progress=progress and processes.rank()[0] == 0,
    )
    materials = list_crystals(structures, supercells, options or PhononReadOptions())
    if processes.rank()[0] == 0:
        remove_partials(work.folder.materials)
    finished = find_finished(
        work.folder, materials, work.keys_of, is_whole=work.is_whole
    )
    records = compute_records(
        materials, finished, work.compute, progress=progress, what="conductivities"
    )
    return _collect(records, work, versions)


def _collect(
    records: list[Record], work: _Work, versions: Mapping[str, str] | None
) -> ConductivityEvaluation:
    """Sum up all rows, and write what belongs to no material in particular."""
    labels, folder = list(work.task.models), work.folder
    rows = [record["models"][label] for record in records for label in labels]
    summary = summarise_conductivity(
        rows, labels, records, work.task.protocol, work.references, folder, versions
    )
    files = {
        label: folder.path / "leaderboard" / f"{label}.json.gz" for label in labels
    }
    if processes.rank()[0] == 0:
        for label, file in files.items():
            chosen = [row for row in rows if row[MODEL] == label]
            write_leaderboard(file, chosen, folder)
        folder.write_totals(rows, summary, COLUMNS)
    processes.barrier()
    return ConductivityEvaluation(rows, summary, folder.path, files)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is done with every crystal, and where it is written."""

    task: Task[ConductivityProtocol]
    folder: EvaluationFolder
    references: References | None
    progress: bool

    def keys_of(self, material: Material[ConductivityCells]) -> dict[str, str]:
        """What the row of each model on a material depends on."""
        known = None if self.references is None else self.references.state
        keys = self.task.keys_of(material)
        return {label: digest([key, known]) for label, key in keys.items()}

    def is_whole(self, record: Record) -> bool:
        """Tell whether the conductivities are there that a record speaks of."""
        return all(
            (self.folder.model_folder(record["name"], label) / KAPPA_FILE).is_file()
            for label, row in record["models"].items()
            if row.get(OUTCOME) == COMPUTED
        )

    def compute(self, material: Material[ConductivityCells]) -> Record:
        """Compute and write the conductivity of a crystal with every model."""
        keys = self.keys_of(material)
        protocol = self.task.protocol
        try:
            cells = material.read()
            found = find_reference(self.references, material.name, cells, protocol)
            mesh = choose_mesh(cells, found, protocol)
        except Exception as error:
            check_failure(error)
            record = unreadable_record(material, error, keys, self.task.models)
            found = find_reference(self.references, material.name, None, protocol)
            for row in record["models"].values():
                row |= failed_scores(found, describe(error))
        else:
            identity = identify(material.name, cells, found, protocol)
            rows: dict[str, Row] = {}
            for label in self.task.models:
                try:
                    row = self._row(label, material, cells, mesh, found)
                except Exception as error:
                    check_failure(error)
                    row = failed_row(error) | failed_scores(found, describe(error))
                    if not is_lasting(error):
                        keys.pop(label)
                rows[label] = {**identity, MODEL: label, **row}
            record = readable_record(material, identity, keys, rows)
        self.folder.write_record(record)
        return record

    def _row(
        self,
        label: str,
        material: Material[ConductivityCells],
        cells: ConductivityCells,
        mesh: tuple[int, int, int] | float,
        found: ReferenceCrystal | None,
    ) -> Row:
        """Columns of a model on a crystal."""
        started = time.perf_counter()
        outcome = Stages(
            folder=self.folder.model_folder(material.name, label),
            model=self.task.models[label],
            cells=cells,
            mesh=mesh,
            protocol=self.task.protocol,
            identity=digest([self.task.fingerprints[label], material.fingerprint]),
            max_atoms=self.task.max_atoms,
            progress=self.progress,
        ).run()
        row = {STATUS: OK, ERROR: "", **columns_of(outcome), **scores(outcome, found)}
        return row | {SECONDS: time.perf_counter() - started}
