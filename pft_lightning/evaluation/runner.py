"""Evaluate phonons of models against DFT, and what they forgot of upstream frames.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``. Where torch's process group is initialised (Lightning Fabric
does that for torchrun and SLURM), its processes share the upstream frames, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.folder import (
    COLUMNS,
    ERROR,
    LEADERBOARD,
    N_PRODUCTS,
    NAME,
    OK,
    REFERENCE,
    RELAX_STEPS,
    SECONDS,
    STATUS,
    VOLUME_RATIO,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.forgetting import evaluate_upstream
from pft_lightning.evaluation.materials import Evaluator
from pft_lightning.evaluation.metrics import compare, summarise
from pft_lightning.evaluation.ml_peg import (
    changed_options,
    check_labels,
    write_ml_peg,
)
from pft_lightning.evaluation.molecules import (
    compare_molecule,
    molecule_properties,
)
from pft_lightning.evaluation.properties import compute_properties, path_of
from pft_lightning.evaluation.protocols import (
    ML_PEG,
    Protocol,
    compute_phonons,
    get_protocol,
)
from pft_lightning.evaluation.records import identify
from pft_lightning.evaluation.reference import (
    Material,
    Phonons,
    Reference,
    list_materials,
)
from pft_lightning.evaluation.stored import find_valid_results
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.task import Task, make_task
from pft_lightning.types import Engine, PhononProperties


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything an evaluation computed.

    Attributes:
        protocol: that was followed.
        rows: one per material and model, see ``evaluation.folder.COLUMNS``.
        summary: totals, counts and failures.
        properties: per material that did not fail, of the reference (``reference``)
            and of each model by its label; only of the materials computed by this
            process, and empty where they are in a folder.
        folder: that was written; None for none.
    """

    protocol: Protocol
    rows: list[Row]
    summary: Summary
    properties: dict[str, dict[str, PhononProperties]]
    folder: Path | None


def evaluate_phonons(
    models: Potential | Mapping[str, Potential],
    phonons: Phonons,
    *,
    protocol: str | Protocol = "dft_cell",
    out: str | Path | None = None,
    upstream: Spec | None = None,
    upstream_keys: Mapping[str, str | None] | None = None,
    upstream_limits: Mapping[str, float] | None = None,
    upstream_heads: Mapping[str, str] | None = None,
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Compare phonons and thermal properties of models with DFT.

    A material or model that fails (a corrupt file, an unknown element, a relaxation
    that explodes) is named in ``summary["failures"]``; the others go on. How a folder
    is resumed, and processes share the work, is said in ``evaluation.materials``.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        phonons: file, folder, glob, store, list of them, or ``Phonopy`` objects with
            force constants, by name or in a list.
        protocol: ``dft_cell``, ``mdr``, ``mdr_analytic``, ``ml_peg`` or a ``Protocol``.
        out: folder to write; None keeps everything in memory.
        upstream: frames with energies, forces and stresses, to measure forgetting.
        upstream_keys: names of "energy", "forces" and "stress" in their files.
        upstream_limits: ``max_force`` (eV/Å), ``max_stress`` (eV/Å³) and
            ``max_energy`` (eV/atom); frames beyond are left out and counted.
        upstream_heads: output heads for these frames, by label, where not in use.
        options: How phonon files are read.
        max_atoms: Atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: Show progress bars.

    Raises:
        ConfigError: unknown protocol, a label that cannot be used, or a wrong option.
        DataFormatError: a path matches nothing.
        StorageError: the disk is full, or the folder cannot be written.
    """
    work = _Phonons(
        make_task(models, get_protocol(protocol), max_atoms, engine),
        None if out is None else EvaluationFolder(out),
    )
    if work.writes_ml_peg:
        check_labels(work.task.models)
    records = work.compute_all(list_materials(phonons, options), progress=progress)
    if upstream is not None:
        how = (upstream_keys, upstream_limits, upstream_heads)
        work.measure_forgetting(upstream, *how, progress=progress)
    rows = work.rows_of(records)
    summary = work.summarise(rows, records, noted)
    work.write_totals(rows, summary)
    path = None if work.folder is None else work.folder.path
    return Evaluation(work.task.protocol, rows, summary, work.properties, path)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A material with its properties; those of models are added as they are known."""

    reference: Reference
    expected: PhononProperties
    properties: dict[str, PhononProperties]


@dataclass(frozen=True, eq=False)
class _Phonons(Evaluator[Protocol, _Read]):
    """What is done with every material.

    Attributes:
        properties: of the materials that this process computed, without a folder.
        forgetting: errors of models on upstream frames by label.
    """

    properties: dict[str, dict[str, PhononProperties]] = field(default_factory=dict)
    forgetting: dict[str, dict[str, Any]] = field(default_factory=dict)

    what = "phonons"
    columns = COLUMNS

    @property
    def writes_ml_peg(self) -> bool:
        """Whether the protocol is that of ML-PEG, which takes files of it."""
        return self.task.protocol.name == ML_PEG.name

    def read(self, material: Material[Reference]) -> _Read:
        """Read a material, and compute the properties of DFT."""
        reference = material.read()
        if isinstance(reference, Molecule):
            expected = molecule_properties(reference, self.task.protocol)
        else:
            expected = compute_properties(reference, self.task.protocol)
        return _Read(reference, expected, {})

    def identify(self, material: Material[Reference], content: _Read) -> Row:
        """Columns that say which material a row is of."""
        return identify(material, content.reference)

    def is_whole(self, record: Record) -> bool:
        """Tell whether the arrays of a material are there."""
        return self.folder is not None and self.folder.has_arrays(record["name"])

    def known_rows(
        self,
        material: Material[Reference],
        keys: Mapping[str, str],
        content: _Read,
    ) -> dict[str, Row]:
        """Rows of models whose properties are there, too."""
        rows, properties = find_valid_results(self.folder, material, keys)
        content.properties.update(properties)
        return rows

    def row(self, label: str, material: Material[Reference], content: _Read) -> Row:
        """Errors of a model, whose properties are kept."""
        model, reference = self.task.models[label], content.reference
        row, content.properties[label] = _compare(
            model, reference, content.expected, self.task
        )
        return row

    def write(self, record: Record, content: _Read | None) -> None:
        """Write properties and record, or keep the properties in memory."""
        arrays: dict[str, PhononProperties] = {}
        if content is not None:
            arrays[REFERENCE] = content.expected
            # In the order of the call, whatever was there before.
            arrays |= {
                label: content.properties[label]
                for label in record["models"]
                if label in content.properties
            }
        if self.folder is None:
            self.properties[record["name"]] = arrays
        else:
            self.folder.write_material(record, arrays)

    def measure_forgetting(
        self,
        upstream: Spec,
        names: Mapping[str, str | None] | None,
        limits: Mapping[str, float] | None,
        heads: Mapping[str, str] | None,
        *,
        progress: bool,
    ) -> None:
        """Note the errors of all models on upstream frames."""
        found = evaluate_upstream(
            self.task.models,
            upstream,
            names,
            limits,
            fingerprints=self.task.fingerprints,
            heads=heads,
            folder=None if self.folder is None else self.folder.path,
            progress=progress,
        )
        self.forgetting.update(found)

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up errors, and add those on upstream frames."""
        task = self.task
        totals = partial(summarise, protocol=task.protocol)
        summary = make_summary(
            rows, list(task.models), records, task.protocol, noted, totals=totals
        )
        summary["forgetting"] = self.forgetting
        summary["failures"] += [
            {"name": "upstream", "model": label, "error": errors["error"]}
            for label, errors in self.forgetting.items()
            if "error" in errors
        ]
        return summary

    def write_totals(self, rows: list[Row], summary: Summary) -> None:
        """Write table and summary, and what ML-PEG takes where its protocol is."""
        folder = self.folder
        if folder is not None and self.writes_ml_peg and processes.rank()[0] == 0:
            done = sorted({row[NAME] for row in rows if row[STATUS] == OK})
            if changed_options(asdict(self.task.protocol)):
                done = []  # files of an earlier call go, too
            properties = ((name, folder.read_properties(name)) for name in done)
            write_ml_peg(folder.path / LEADERBOARD, properties)
        super().write_totals(rows, summary)


def _compare(
    model: Potential,
    reference: Reference,
    expected: PhononProperties,
    task: Task[Protocol],
) -> tuple[Row, PhononProperties]:
    """Row and properties of a model on a material, whose own are expected."""
    if isinstance(reference, Molecule):
        return compare_molecule(model, reference, expected, task)
    started = time.perf_counter()
    phonons = compute_phonons(
        model,
        reference,
        task.protocol,
        max_atoms=task.max_atoms,
        engine=task.engine,
    )
    seconds = time.perf_counter() - started
    properties, against = _on_one_mesh(
        phonons.phonon, reference, expected, task.protocol
    )
    row = {
        STATUS: OK,
        ERROR: "",
        **compare(properties, against, task.protocol),
        VOLUME_RATIO: phonons.volume_ratio,
        RELAX_STEPS: phonons.relax_steps,
        N_PRODUCTS: phonons.n_products,
        SECONDS: seconds,
    }
    return row, properties


def _on_one_mesh(
    phonon: Any, reference: Any, against: PhononProperties, protocol: Protocol
) -> tuple[PhononProperties, PhononProperties]:
    """Properties of a model on the q-points of the reference, and the reference's.

    Relaxing can raise or lower the symmetry that spares q-points; then neither side
    uses it.
    """
    compute = partial(
        compute_properties,
        protocol=protocol,
        mesh=[int(n) for n in reference.mesh.mesh_numbers],
        path=path_of(reference),
    )
    properties = compute(phonon)
    if np.array_equal(phonon.mesh.qpoints, reference.mesh.qpoints):
        return properties, against
    return (
        compute(phonon, mesh_symmetry=False),
        compute(reference, mesh_symmetry=False),
    )
