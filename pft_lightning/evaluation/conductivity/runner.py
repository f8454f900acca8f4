"""Conductivities of models on crystals, and their scores.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``. What a material needs is kept stage by stage (``stages``), so
that an interruption costs one stage, and a change of the protocol costs what depends on
it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.third_order import check_phono3py
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.conductivity.cells import ConductivityCells
from pft_lightning.evaluation.conductivity.leaderboard import write_leaderboard
from pft_lightning.evaluation.conductivity.protocol import (
    ConductivityProtocol,
    get_protocol,
)
from pft_lightning.evaluation.conductivity.reference import (
    OtherCrystalError,
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
    transport_of,
)
from pft_lightning.evaluation.conductivity.stages import Stages
from pft_lightning.evaluation.conductivity.structures import (
    ConductivityOptions,
    list_crystals,
)
from pft_lightning.evaluation.conductivity.summary import (
    ConductivitySummary,
    summarise_conductivity,
)
from pft_lightning.evaluation.conductivity.totals import COMPUTED, OUTCOME
from pft_lightning.evaluation.failures import describe
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    LEADERBOARD,
    MODEL,
    NAME,
    OK,
    SECONDS,
    STATUS,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.materials import Evaluator
from pft_lightning.evaluation.reference import Material
from pft_lightning.evaluation.task import make_task
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
    structures: Spec | list[Material[ConductivityCells]],
    out: str | Path,
    *,
    reference: str | Path | None = None,
    protocol: str | ConductivityProtocol = "matbench",
    supercells: ConductivityOptions = _OPTIONS,
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ConductivityEvaluation:
    """Compute thermal conductivities of models, and compare them with DFT.

    A crystal on which a model fails (it is unstable, loses its symmetry, a relaxation
    explodes, forces are not finite) has the worst scores and a reason; the others go
    on.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        structures: see ``structures.list_crystals``, or what it gave.
        out: folder to write.
        reference: table of DFT mode by mode, see ``reference.read_conductivities``;
            None scores nothing.
        protocol: ``matbench``, ``k_srme`` or a ``ConductivityProtocol``.
        supercells: of crystals whose files name none.
        options: units and tolerance of structures.
        max_atoms: Atoms of one pass; what bounds memory.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: Show progress bars.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
        ConfigError: a label, option or protocol that cannot be used.
        DataFormatError: a path matches nothing, or the reference is no table.
        StorageError: the disk is full, or the folder cannot be written.
    """
    check_phono3py()
    protocol = get_protocol(protocol)
    folder = EvaluationFolder(out)
    references = _read_reference(reference, folder, protocol)
    work = _Conductivities(
        make_task(models, protocol, max_atoms, None, libraries=("phono3py",)),
        folder,
        references,
        progress and processes.rank()[0] == 0,
    )
    if _are_listed(structures):
        materials = structures
    else:
        reading = options or PhononReadOptions()
        materials = list_crystals(structures, supercells, reading)  # type: ignore[arg-type]
    if processes.rank()[0] == 0:
        remove_partials(work.folder.materials)
    found = work.evaluate(materials, noted, progress=progress)
    summary = cast(ConductivitySummary, found.summary)
    return ConductivityEvaluation(found.rows, summary, found.folder, work.leaderboard)


def _read_reference(
    reference: str | Path | None,
    folder: EvaluationFolder,
    protocol: ConductivityProtocol,
) -> References | None:
    """Read a reference, unless the evaluation itself would write or remove it."""
    if reference is None:
        return None
    own = (folder.path / LEADERBOARD).resolve()
    if own in Path(reference).resolve().parents:
        raise ConfigError(
            f"reference={reference} is a file that this evaluation would write or "
            "remove. Copy it to another folder, or choose another for the results."
        )
    return read_conductivities(reference, protocol.temperature)


def _are_listed(
    structures: Spec | list[Material[ConductivityCells]],
) -> TypeGuard[list[Material[ConductivityCells]]]:
    return isinstance(structures, list) and any(
        isinstance(one, Material) for one in structures
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A crystal with its mesh, and the same crystal of the reference."""

    cells: ConductivityCells
    mesh: tuple[int, int, int] | float
    found: ReferenceCrystal | None


@dataclass(frozen=True, eq=False)
class _Conductivities(Evaluator[ConductivityProtocol, _Read]):
    """What is done with every crystal.

    Attributes:
        references: of DFT; None where nothing is compared.
        progress: show the progress of stages.
    """

    folder: EvaluationFolder
    references: References | None
    progress: bool

    what = "conductivities"
    columns = COLUMNS

    @property
    def leaderboard(self) -> dict[str, Path]:
        """Files that the leaderboard takes, by the label of the model."""
        place = self.folder.path / LEADERBOARD
        return {label: place / f"{label}.json.gz" for label in self.task.models}

    def keys_of(self, material: Material[ConductivityCells]) -> dict[str, str]:
        """What the row of each model on a material depends on."""
        known = None if self.references is None else self.references.state
        keys = self.task.keys_of(material)
        return {label: digest([key, known]) for label, key in keys.items()}

    def is_whole(self, record: Record) -> bool:
        """Tell whether the conductivities are there that a record speaks of."""
        return all(
            transport_of({NAME: record["name"], MODEL: label, **row}, self.folder)
            is not None
            for label, row in record["models"].items()
            if row.get(OUTCOME) == COMPUTED
        )

    def read(self, material: Material[ConductivityCells]) -> _Read:
        """Read a crystal, find it in the reference and choose its mesh."""
        cells, protocol = material.read(), self.task.protocol
        found = find_reference(self.references, material.name, cells, protocol)
        return _Read(cells, choose_mesh(cells, found, protocol), found)

    def identify(self, material: Material[ConductivityCells], content: _Read) -> Row:
        """Columns that say which crystal a row is of."""
        return identify(material.name, content.cells, content.found, self.task.protocol)

    def failed_columns(
        self,
        error: Exception,
        material: Material[ConductivityCells],
        content: _Read | None,
    ) -> Row:
        """The worst scores, where there is something to score."""
        if isinstance(error, OtherCrystalError):
            found = None  # the one of the reference is not it
        elif content is None:
            protocol = self.task.protocol
            found = find_reference(self.references, material.name, None, protocol)
        else:
            found = content.found
        return failed_scores(found, describe(error))

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> ConductivitySummary:
        """Sum up scores, and keep spectra of the worst for a report."""
        labels, protocol = list(self.task.models), self.task.protocol
        return summarise_conductivity(
            rows, labels, records, protocol, self.references, self.folder, noted
        )

    def write_totals(self, rows: list[Row], summary: Summary) -> None:
        """Write what belongs to no material in particular."""
        if processes.rank()[0] == 0:
            for label, file in self.leaderboard.items():
                chosen = [row for row in rows if row[MODEL] == label]
                write_leaderboard(file, chosen, self.folder)
            # Tables of potentials that this evaluation does not have are not its own.
            for other in (self.folder.path / LEADERBOARD).glob("*.json.gz"):
                if other not in self.leaderboard.values():
                    other.unlink()
        super().write_totals(rows, summary)

    def row(
        self, label: str, material: Material[ConductivityCells], content: _Read
    ) -> Row:
        """Columns of a model on a crystal."""
        started = time.perf_counter()
        outcome = Stages(
            folder=self.folder.model_folder(material.name, label),
            model=self.task.models[label],
            cells=content.cells,
            mesh=content.mesh,
            protocol=self.task.protocol,
            identity=digest([self.task.identities[label], material.fingerprint]),
            max_atoms=self.task.max_atoms,
            progress=self.progress,
        ).run()
        scored = scores(outcome, content.found)
        row = {STATUS: OK, ERROR: "", **columns_of(outcome), **scored}
        return row | {SECONDS: time.perf_counter() - started}
