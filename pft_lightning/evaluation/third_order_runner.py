"""Third-order force constants of models against DFT.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.names import find_file, source_state
from pft_lightning.data.readers.phono3py import THIRD_ORDER_FILES, read_third_order
from pft_lightning.data.readers.phonopy import material_name
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.third_order import ThirdOrderRecord, check_phono3py
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    FORCE_CONSTANTS_MAE,
    FORMULA,
    N_ATOMS,
    N_PRIMITIVE,
    NAME,
    OK,
    SECONDS,
    STATUS,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.force_constants import Potential, compute_force_constants
from pft_lightning.evaluation.materials import Evaluated, Evaluator
from pft_lightning.evaluation.reference import (
    Material,
    file_name,
    number_names,
    unusable,
)
from pft_lightning.evaluation.summary import make_summary, mean_and_median
from pft_lightning.evaluation.task import Task, make_task
from pft_lightning.evaluation.third_order import third_order_force_constants
from pft_lightning.evaluation.third_order_errors import (
    COLUMNS,
    ERRORS,
    MADE,
    PAIRS,
    compare_third,
    largest_pairs,
)
from pft_lightning.types import Engine


@dataclass(frozen=True, slots=True)
class ThirdOrderProtocol:
    """How third-order force constants of models are made: as those of DFT were.

    Attributes:
        name: of the protocol.
        displacement: Å, of ASE calculators where the source has no pairs.
    """

    name: str = "third_order"
    displacement: float = 0.03


def evaluate_third_order(
    models: Potential | Mapping[str, Potential],
    phonons: Spec,
    out: str | Path,
    *,
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Compare third-order force constants of models with DFT.

    Where DFT's come of pairs of displacements, those of models come of the same, so
    that both have the error of the displacements; otherwise they are exact third
    derivatives, or of an ASE calculator finite differences. A material or model that
    fails is named in ``summary["failures"]``; the others go on.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        phonons: files or folders, see ``read_third_order``; globs, or a list.
        out: folder to write.
        options: of reading.
        max_atoms: Atoms of one pass; what bounds memory.
        engine: of derivatives; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: Show progress bars.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
        ConfigError: a label or option that cannot be used.
        DataFormatError: a path matches nothing.
        StorageError: the disk is full, or the folder cannot be written.
    """
    check_phono3py("third-order force constants")
    task = make_task(
        models, ThirdOrderProtocol(), max_atoms, engine, libraries=("phono3py",)
    )
    materials = _list_materials(phonons, options or PhononReadOptions())
    work = _ThirdOrder(task, EvaluationFolder(out))
    return work.evaluate(materials, noted, progress=progress)


def _list_materials(
    phonons: Spec, options: PhononReadOptions
) -> list[Material[ThirdOrderRecord]]:
    sources = find_sources(phonons)
    return number_names(
        [
            unusable(Path(source).name, source, reason)
            for source, reason in sources.skipped
        ]
        + [
            Material(
                name=file_name(
                    path.absolute().name if path.is_dir() else material_name(path)
                ),
                source=str(path),
                fingerprint=digest(
                    [str(path.absolute()), _state(path), asdict(options)]
                ),
                read=partial(read_third_order, path, options),
            )
            for path in sources.paths
        ]
    )


def _state(path: Path) -> list[list[Any]]:
    """What tells changes of a source; forces may lie beside a file with cells."""
    found = source_state(path)
    if not path.is_dir():
        beside = (find_file(path.parent, name) for name in THIRD_ORDER_FILES)
        found += [one for file in beside if file for one in source_state(file)]
    return found


class _ThirdOrder(Evaluator[ThirdOrderProtocol, ThirdOrderRecord]):
    """What is done with every material."""

    what = "third order"
    columns = COLUMNS

    def identify(
        self, material: Material[ThirdOrderRecord], content: ThirdOrderRecord
    ) -> Row:
        """Columns that say which material a row is of."""
        cells = content.structure.cells
        assert cells is not None
        return {
            NAME: material.name,
            FORMULA: cells.to_phonopy().unitcell.formula,
            N_ATOMS: content.structure.n_atoms,
            N_PRIMITIVE: content.third_order.n_primitive,
        }

    def row(
        self,
        label: str,
        material: Material[ThirdOrderRecord],
        content: ThirdOrderRecord,
    ) -> Row:
        """Errors of a model in both orders."""
        return _compare(self.task.models[label], content, self.task)

    def is_whole(self, record: Record) -> bool:
        """Tell whether the elements are there that a report draws."""
        return all(
            PAIRS in row for row in record["models"].values() if row[STATUS] == OK
        )

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Means and medians over materials, counts and failures."""
        labels, protocol = list(self.task.models), self.task.protocol
        return make_summary(rows, labels, records, protocol, noted, totals=total_errors)


def total_errors(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and median over materials of what ``ERRORS`` names, for one model."""
    return {
        column: mean_and_median(row.get(column) for row in rows) for column in ERRORS
    }


def _compare(
    model: Potential, reference: ThirdOrderRecord, task: Task[ThirdOrderProtocol]
) -> Row:
    """Errors of a model in both orders."""
    started = time.perf_counter()
    has_pairs = reference.dataset is not None and "first_atoms" in reference.dataset
    is_exact = isinstance(model, EnergyModel) and not has_pairs
    found = third_order_force_constants(
        model,
        reference.to_phono3py(),
        method="third_derivatives" if is_exact else "finite_displacement",
        displacement=task.protocol.displacement,
        max_atoms=task.max_atoms,
        engine=task.engine,
    )
    second, cells = reference.structure.force_constants, reference.structure.cells
    error = None
    if second is not None and cells is not None:
        theirs = compute_force_constants(
            model,
            cells.to_phonopy(),
            method=("hvp" if isinstance(model, EnergyModel) else "finite_displacement"),
            max_atoms=task.max_atoms,
            engine=task.engine,
        )
        error = float(np.abs(theirs.compact - second.compact).mean())
    made = "exact third derivatives" if is_exact else "finite differences of pairs"
    return {
        STATUS: OK,
        ERROR: "",
        **compare_third(found, reference.third_order),
        PAIRS: largest_pairs(found, reference.third_order.compact),
        FORCE_CONSTANTS_MAE: error,
        MADE: f"DFT: {reference.structure.info[MADE]}; model: {made}",
        SECONDS: time.perf_counter() - started,
    }
