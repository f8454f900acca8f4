"""Evaluate models on materials: shared among processes, written as it goes, resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from ase.calculators.calculator import BaseCalculator
from phonopy import Phonopy
from tqdm import tqdm

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.failures import check_failure, failed_row, is_lasting
from pft_lightning.evaluation.files import write_csv
from pft_lightning.evaluation.fingerprints import (
    digest,
    fingerprint,
    library_versions,
)
from pft_lightning.evaluation.force_constants import Method, Potential, in_float64
from pft_lightning.evaluation.forgetting import evaluate_upstream
from pft_lightning.evaluation.metrics import COLUMNS, compare
from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.properties_io import save_properties
from pft_lightning.evaluation.protocols import (
    Protocol,
    compute_phonons,
    describe,
    get_protocol,
)
from pft_lightning.evaluation.reference import Material, Phonons, list_materials
from pft_lightning.evaluation.stored import (
    arrays_file,
    find_finished,
    find_kept,
    record_file,
)
from pft_lightning.evaluation.summary import summarise_evaluation
from pft_lightning.json_files import write_json
from pft_lightning.types import Engine, PhononProperties


# Changes when the same input would give other numbers: files of an older version are
# computed again.
_RESULTS_VERSION = 2

REFERENCE = "reference"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything an evaluation found.

    Attributes:
        protocol: that was followed.
        rows: one per material and model, as in ``per_material.csv``.
        summary: the content of ``metrics.json``.
        properties: per material that did not fail, of the reference (``reference``)
            and of each model by its label; only of the materials computed by this
            process, and empty where they are in a folder.
        folder: that was written; None for none.
    """

    protocol: Protocol
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    properties: dict[str, dict[str, PhononProperties]]
    folder: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What is done with every material."""

    models: dict[str, Potential]
    fingerprints: dict[str, str]
    keys: dict[str, str]
    protocol: Protocol
    max_atoms: int
    engine: Engine | None

    def keys_of(self, material: Material) -> dict[str, str]:
        """What the results of each model on a material depend on."""
        return {
            label: digest([key, material.fingerprint])
            for label, key in self.keys.items()
        }


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
    that explodes) is named in ``summary["failures"]``; the others go on.

    With a folder, every material is written when it is done. The same call into the
    same folder computes only what is not there yet; a change of models, protocol or
    sources is noticed, and what it concerns is computed again. A failure of the
    material or the model counts as done: delete the file of the material to try again.
    One of the surroundings (memory, disk), or that nobody foresaw, does not.

    Where torch's process group is initialised (Lightning Fabric does that for torchrun
    and SLURM), its processes share the materials and the upstream frames.

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
        engine: of Hessian-vector products; None chooses by device, see
            ``force_constants``.
        versions: to note in ``metrics.json``.
        progress: Show progress bars.

    Raises:
        ConfigError: unknown protocol, a label that cannot be used, or a wrong option.
        DataFormatError: a path matches nothing.
        StorageError: the disk is full, or the folder cannot be written.
    """
    task = _make_task(_named(models), get_protocol(protocol), max_atoms, engine)
    materials = list_materials(phonons, options)
    folder = None if out is None else Path(out)
    rank, n_ranks = processes.rank()
    records = find_finished(folder, materials, task.keys_of)
    # Nobody writes before everyone has seen what is there, so all share one list.
    processes.barrier()
    pending = [material for material in materials if material.name not in records]
    computed, properties = _evaluate_share(pending, task, folder, progress)
    forgetting = None
    if upstream is not None:
        forgetting = evaluate_upstream(
            task.models,
            upstream,
            upstream_keys,
            upstream_limits,
            fingerprints=task.fingerprints,
            folder=folder,
            rank=rank,
            n_ranks=n_ranks,
            gather=processes.gather,
            progress=progress and rank == 0,
        )
    for share in processes.gather(computed):
        records.update(share)
    ordered = [records[material.name] for material in materials]
    labels = list(task.models)
    rows = [record["models"][label] for record in ordered for label in labels]
    summary = summarise_evaluation(
        rows, labels, ordered, task.protocol, forgetting, versions
    )
    if folder is not None and rank == 0:
        write_csv(folder / "per_material.csv", COLUMNS, rows)
        write_json(folder / "metrics.json", summary)
    processes.barrier()
    return Evaluation(task.protocol, rows, summary, properties, folder)


def _make_task(
    models: dict[str, Potential],
    protocol: Protocol,
    max_atoms: int,
    engine: Engine | None,
) -> _Task:
    _check_options(models, protocol, max_atoms, engine)
    fingerprints = {label: fingerprint(model) for label, model in models.items()}
    settings = [_RESULTS_VERSION, library_versions(), describe(protocol), engine]
    return _Task(
        models={
            label: in_float64(model) if isinstance(model, EnergyModel) else model
            for label, model in models.items()
        },
        fingerprints=fingerprints,
        keys={
            label: digest([*settings, found]) for label, found in fingerprints.items()
        },
        protocol=protocol,
        max_atoms=max_atoms,
        engine=engine,
    )


def _evaluate_share(
    pending: list[Material], task: _Task, folder: Path | None, progress: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, PhononProperties]]]:
    """Evaluate this process's share of the materials, and write it to a folder.

    Returns:
        Records; and properties where there is no folder.
    """
    rank, n_ranks = processes.rank()
    computed: dict[str, dict[str, Any]] = {}
    properties: dict[str, dict[str, PhononProperties]] = {}
    mine = tqdm(
        pending[rank::n_ranks],
        desc="phonons",
        unit="material",
        disable=not (progress and rank == 0 and pending),
    )
    for material in mine:
        mine.set_postfix_str(material.name, refresh=False)
        record, found = _evaluate(material, task, folder)
        if folder is None:
            properties[material.name] = found
        else:
            # The arrays first: the record says that a material is done.
            if found:
                save_properties(arrays_file(folder, material), found)
            write_json(record_file(folder, material), record)
        computed[material.name] = record
    return computed, properties


def _named(models: Potential | Mapping[str, Potential]) -> dict[str, Potential]:
    # A model is a torch module, never a mapping.
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ConfigError("no model was given; expected at least one.")
    for label, model in named.items():
        if (
            not isinstance(label, str)
            or label == REFERENCE
            or "/" in label
            or not label
        ):
            raise ConfigError(
                f"the label {label!r} of a model cannot be used; choose one that is "
                f"not {REFERENCE!r} and has no '/'."
            )
        if not isinstance(model, (EnergyModel, BaseCalculator)):
            raise ConfigError(
                f"model {label!r} is a {type(model).__name__}; expected one from "
                "pft.load_model or an ASE calculator."
            )
    return named


def _check_options(
    models: Mapping[str, Potential],
    protocol: Protocol,
    max_atoms: int,
    engine: str | None,
) -> None:
    """Refuse what would fail on every material."""
    if max_atoms < 1:
        raise ConfigError(f"max_atoms={max_atoms}; at least 1.")
    if engine not in (None, *get_args(Engine)):
        raise ConfigError(
            f"engine={engine!r}; expected {', '.join(get_args(Engine))}, or null."
        )
    if protocol.method not in get_args(Method):
        raise ConfigError(
            f"protocol.method={protocol.method!r}; expected one of "
            f"{', '.join(get_args(Method))}."
        )
    for label, model in models.items():
        is_calculator = not isinstance(model, EnergyModel)
        if is_calculator and protocol.method != "finite_displacement":
            raise ConfigError(
                f"protocol.method={protocol.method!r} needs second derivatives, which "
                f"the ASE calculator {label!r} ({type(model).__name__}) does not give. "
                "Use protocol.method=finite_displacement, or protocol=mdr."
            )


def _evaluate(
    material: Material, task: _Task, folder: Path | None
) -> tuple[dict[str, Any], dict[str, PhononProperties]]:
    """Evaluate all models on one material; failures become part of the record."""
    keys = task.keys_of(material)
    record: dict[str, Any] = {"name": material.name, "source": material.source}
    try:
        reference = material.read()
        identity = {
            "name": material.name,
            "formula": reference.unitcell.formula,
            "n_atoms": len(reference.supercell),
            "n_primitive": len(reference.primitive),
        }
        found = {REFERENCE: compute_properties(reference, task.protocol)}
    except Exception as error:
        check_failure(error)
        failed = {"name": material.name, **failed_row(error)}
        models = {label: {**failed, "model": label} for label in task.models}
        done = keys if is_lasting(error) else {}
        return {**record, "keys": done, **failed, "models": models}, {}
    rows, kept = find_kept(folder, material, keys)
    passing = set()
    found |= kept
    for label, model in task.models.items():
        if label in rows:
            continue
        try:
            row, found[label] = _compare(model, reference, found[REFERENCE], task)
        except Exception as error:
            check_failure(error)
            row = failed_row(error)
            if not is_lasting(error):
                passing.add(label)
        rows[label] = {**identity, "model": label, **row}
    done = {label: key for label, key in keys.items() if label not in passing}
    status = {"status": "ok", "error": ""}
    # In the order of the call, whatever was there before.
    rows = {label: rows[label] for label in task.models}
    found = {label: found[label] for label in (REFERENCE, *rows) if label in found}
    return {**record, "keys": done, **identity, **status, "models": rows}, found


def _compare(
    model: Potential, reference: Phonopy, expected: PhononProperties, task: _Task
) -> tuple[dict[str, Any], PhononProperties]:
    """Row and properties of a model on a material, whose own are expected."""
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
        "status": "ok",
        "error": "",
        **compare(properties, against, task.protocol),
        "volume_ratio": phonons.volume_ratio,
        "relax_steps": phonons.relax_steps,
        "hvps": phonons.n_products,
        "seconds": seconds,
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
