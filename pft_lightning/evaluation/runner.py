"""Evaluate models on materials: shared among processes, written as it goes, resumed.

With a folder, every material is written when it is done. The same call into the same
folder computes only what is not there yet; a change of models, protocol or sources is
noticed, and what it concerns is computed again. A failure of the material or the model
counts as done: delete the file of the material to try again. One of the surroundings
(memory, disk), or that nobody foresaw, does not.

Where torch's process group is initialised (Lightning Fabric does that for torchrun and
SLURM), its processes share the materials and the upstream frames.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.failures import check_failure, failed_row, is_lasting
from pft_lightning.evaluation.folder import (
    ERROR,
    MODEL,
    N_PRODUCTS,
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
from pft_lightning.evaluation.metrics import compare
from pft_lightning.evaluation.molecules import (
    compare_molecule,
    molecule_properties,
)
from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.protocols import (
    Protocol,
    compute_phonons,
    get_protocol,
)
from pft_lightning.evaluation.records import (
    identify,
    readable_record,
    unreadable_record,
)
from pft_lightning.evaluation.reference import (
    Material,
    Phonons,
    Reference,
    list_materials,
)
from pft_lightning.evaluation.sharing import compute_records
from pft_lightning.evaluation.stored import find_finished, find_valid_results
from pft_lightning.evaluation.summary import summarise_evaluation
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
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    versions: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Compare phonons and thermal properties of models with DFT.

    A material or model that fails (a corrupt file, an unknown element, a relaxation
    that explodes) is named in ``summary["failures"]``; the others go on. How a folder
    is resumed, and processes share the work, is said in ``evaluation.runner``.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        phonons: file, folder, glob, store, list of them, or ``Phonopy`` objects with
            force constants, by name or in a list.
        protocol: ``dft_cell``, ``mdr``, ``mdr_analytic`` or a ``Protocol``.
        out: folder to write; None keeps everything in memory.
        upstream: frames with energies, forces and stresses, to measure forgetting.
        upstream_keys: names of "energy", "forces" and "stress" in their files.
        upstream_limits: ``max_force`` (eV/Å), ``max_stress`` (eV/Å³) and
            ``max_energy`` (eV/atom); frames beyond are left out and counted.
        options: How phonon files are read.
        max_atoms: Atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        versions: to note in the summary.
        progress: Show progress bars.

    Raises:
        ConfigError: unknown protocol, a label that cannot be used, or a wrong option.
        DataFormatError: a path matches nothing.
        StorageError: the disk is full, or the folder cannot be written.
    """
    task = make_task(models, get_protocol(protocol), max_atoms, engine)
    materials = list_materials(phonons, options)
    folder = None if out is None else EvaluationFolder(out)
    records, properties = _evaluate_materials(materials, task, folder, progress)
    forgetting = _measure_forgetting(
        task, upstream, upstream_keys, upstream_limits, out, progress
    )
    rows, summary = _collect(records, task, forgetting, versions)
    if folder is not None and processes.rank()[0] == 0:
        folder.write_totals(rows, summary)
    processes.barrier()
    path = None if folder is None else folder.path
    return Evaluation(task.protocol, rows, summary, properties, path)


def _evaluate_materials(
    materials: list[Material[Reference]],
    task: Task[Protocol],
    folder: EvaluationFolder | None,
    progress: bool,
) -> tuple[list[Record], dict[str, dict[str, PhononProperties]]]:
    """Evaluate what is not in the folder yet, shared among the processes.

    Returns:
        Records of all materials, in their order; and of those that this process
        computed the properties, where there is no folder.
    """
    properties: dict[str, dict[str, PhononProperties]] = {}

    def evaluate(material: Material[Reference]) -> Record:
        record, arrays = _evaluate(material, task, folder)
        if folder is None:
            properties[material.name] = arrays
        else:
            folder.write_material(record, arrays)
        return record

    finished = find_finished(folder, materials, task.keys_of)
    records = compute_records(materials, finished, evaluate, progress=progress)
    return records, properties


def _measure_forgetting(
    task: Task[Protocol],
    upstream: Spec | None,
    names: Mapping[str, str | None] | None,
    limits: Mapping[str, float] | None,
    folder: str | Path | None,
    progress: bool,
) -> dict[str, Any] | None:
    """Errors of all models on upstream frames by label; None where there are none."""
    if upstream is None:
        return None
    return evaluate_upstream(
        task.models,
        upstream,
        names,
        limits,
        fingerprints=task.fingerprints,
        folder=folder,
        progress=progress,
    )


def _collect(
    records: list[Record],
    task: Task[Protocol],
    forgetting: dict[str, Any] | None,
    versions: Mapping[str, str] | None,
) -> tuple[list[Row], Summary]:
    """Rows of all materials and models, and what they come to."""
    labels = list(task.models)
    rows = [record["models"][label] for record in records for label in labels]
    return rows, summarise_evaluation(
        rows, labels, records, task.protocol, forgetting, versions
    )


def _evaluate(
    material: Material[Reference], task: Task[Protocol], folder: EvaluationFolder | None
) -> tuple[Record, dict[str, PhononProperties]]:
    """Evaluate all models on one material; failures become part of the record."""
    keys = task.keys_of(material)
    try:
        reference = material.read()
        identity = identify(material, reference)
        if isinstance(reference, Molecule):
            expected = molecule_properties(reference, task.protocol)
        else:
            expected = compute_properties(reference, task.protocol)
    except Exception as error:
        check_failure(error)
        return unreadable_record(material, error, keys, task.models), {}
    rows, properties = find_valid_results(folder, material, keys)
    passing = set()
    for label, model in task.models.items():
        if label in rows:
            continue
        try:
            row, properties[label] = _compare(model, reference, expected, task)
        except Exception as error:
            check_failure(error)
            row = failed_row(error)
            if not is_lasting(error):
                passing.add(label)
        rows[label] = {**identity, MODEL: label, **row}
    done = {label: key for label, key in keys.items() if label not in passing}
    # In the order of the call, whatever was there before.
    rows = {label: rows[label] for label in task.models}
    properties = {label: properties[label] for label in rows if label in properties}
    record = readable_record(material, identity, done, rows)
    return record, {REFERENCE: expected, **properties}


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
    mesh = [int(n) for n in reference.mesh.mesh_numbers]
    properties = compute_properties(phonon, protocol, mesh=mesh)
    if np.array_equal(phonon.mesh.qpoints, reference.mesh.qpoints):
        return properties, against
    return (
        compute_properties(phonon, protocol, mesh=mesh, mesh_symmetry=False),
        compute_properties(reference, protocol, mesh=mesh, mesh_symmetry=False),
    )
