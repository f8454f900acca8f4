"""Soft modes of models on crystals: wells, ends, and imaginary modes against DFT.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import ase
import ase.io
from phonopy import Phonopy

from pft_lightning.data.crystals import check_bulk, list_crystals
from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation import crystals, reference
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    ERROR,
    OK,
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
from pft_lightning.evaluation.materials import Evaluated, Evaluator
from pft_lightning.evaluation.protocols import Protocol, compute_phonons, get_protocol
from pft_lightning.evaluation.records import identify
from pft_lightning.evaluation.reference import Material, Phonons, Reference
from pft_lightning.evaluation.soft_modes.columns import (
    COLUMNS,
    SAME_AS_REFERENCE,
    STRUCTURE,
    compare_modes,
    compare_phases,
    problem_of,
    to_ase,
    to_plain,
    totals,
    values_of,
)
from pft_lightning.evaluation.soft_modes.frames import path_frames
from pft_lightning.evaluation.soft_modes.modes import SupercellWaves
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.phases import (
    Generation,
    Setting,
    follow_soft_modes,
)
from pft_lightning.evaluation.soft_modes.symmetry import is_same_phase
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.task import make_task
from pft_lightning.files import make_folder, replacing
from pft_lightning.types import Engine


FRAMES_FILE: Final = "soft_modes.xyz"
_SUPERCELL: Final = SupercellOptions()
_OPTIONS: Final = SoftModeOptions()


@dataclass(frozen=True, slots=True)
class SoftModeProtocol(Protocol):
    """A protocol of phonons, and what of their soft modes is computed.

    Attributes:
        soft_modes: which are followed, and how far.
    """

    soft_modes: SoftModeOptions = _OPTIONS


def evaluate_soft_modes(
    models: Potential | Mapping[str, Potential],
    out: str | Path,
    *,
    phonons: Phonons | None = None,
    structures: Spec | None = None,
    supercell: SupercellOptions = _SUPERCELL,
    soft_modes: SoftModeOptions = _OPTIONS,
    phases: str | Path | None = None,
    protocol: str | Protocol = "mdr_analytic",
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Follow the soft modes of models, and compare imaginary modes with DFT.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        out: folder to write.
        phonons: of DFT, whose imaginary modes are compared; or
        structures: crystals alone, which get a supercell.
        supercell: of crystals whose files have none.
        soft_modes: which are followed, and how far.
        phases: crystals that soft modes should end in: a folder of files named as
            the materials, or one file.
        protocol: whether the crystal is relaxed first, and how force constants are
            computed; relaxations of ends go as far.
        options: units and tolerance of files.
        max_atoms: atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: show a progress bar.

    Raises:
        ConfigError: an option that cannot be used, or not one of ``phonons`` and
            ``structures``.
        DataFormatError: a path matches nothing, or a phase cannot be read.
        StorageError: the disk is full, or the folder cannot be written.
    """
    options = options or PhononReadOptions()
    task = make_task(
        models, with_soft_modes(get_protocol(protocol), soft_modes), max_atoms, engine
    )
    if (phonons is None) == (structures is None):
        raise ConfigError(
            "soft modes need crystals: either phonons=PATH, of DFT phonons to compare "
            "with, or structures=PATH, and not both."
        )
    materials: list[Material[Any]]
    if structures is None:
        materials = [*reference.list_materials(phonons, options)]  # type: ignore[arg-type]
    else:
        materials = [
            *crystals.list_materials(structures, supercell, options, check=check_bulk)
        ]
    known = {} if phases is None else _read_phases(phases, options)
    work = _SoftModes(task, EvaluationFolder(out), known)
    return work.evaluate(materials, noted, progress=progress)


def compute_generations(
    model: Potential,
    cells: Phonopy,
    protocol: SoftModeProtocol,
    *,
    max_atoms: int = 256,
    engine: Engine | None = None,
) -> tuple[list[Generation], Row]:
    """Phonons of a model in given cells, and where its soft modes lead.

    Args:
        model: in float64, or an ASE calculator.
        cells: gives the crystal and its supercell.
        protocol: of both.
        max_atoms: of a pass.
        engine: of Hessian-vector products.

    Returns:
        As of ``follow_soft_modes``, and columns of what the phonons took.
    """
    found = compute_phonons(model, cells, protocol, max_atoms=max_atoms, engine=engine)
    setting = Setting(model, protocol, protocol.soft_modes, max_atoms, engine)
    took = {VOLUME_RATIO: found.volume_ratio, RELAX_STEPS: found.relax_steps}
    return follow_soft_modes(found.phonon, setting), took


def with_soft_modes(
    protocol: Protocol, soft_modes: SoftModeOptions
) -> SoftModeProtocol:
    """Add what is computed of soft modes to a protocol of phonons."""
    values = {field.name: getattr(protocol, field.name) for field in fields(Protocol)}
    return SoftModeProtocol(**values, soft_modes=soft_modes)


@dataclass(frozen=True, eq=False)
class _SoftModes(Evaluator[SoftModeProtocol, Reference]):
    """What is done with every crystal.

    Attributes:
        phases: that soft modes should end in, by the name of the crystal; under the
            empty name that of all.
    """

    phases: Mapping[str, ase.Atoms]

    what = "soft modes"
    columns = COLUMNS

    def keys_of(self, material: Material[Any]) -> dict[str, str]:
        """What the row of each model on a crystal depends on."""
        phase = self._phase(material)
        known = None if phase is None else to_plain(phase)
        keys = self.task.keys_of(material)
        return {label: digest([key, "soft", known]) for label, key in keys.items()}

    def is_whole(self, record: Record) -> bool:
        """Tell whether the frames of a crystal are there."""
        return self.folder is None or all(
            self._frames_file(record["name"], label).is_file()
            for label, row in record["models"].items()
            if row[STATUS] == OK
        )

    def identify(self, material: Material[Any], content: Reference) -> Row:
        """Columns that say which crystal a row is of.

        Raises:
            DataFormatError: it is a molecule.
        """
        if isinstance(content, Molecule):
            raise DataFormatError(
                f"{material.source}: a molecule has no lattice, and so no q-points. "
                "Give crystals."
            )
        return identify(material, content)

    def row(self, label: str, material: Material[Any], content: Reference) -> Row:
        """Modes, wells and ends of a model on a crystal."""
        assert isinstance(content, Phonopy)  # as ``identify`` found
        started = time.perf_counter()
        options = self.task.protocol.soft_modes
        generations, took = compute_generations(
            self.task.models[label],
            content,
            self.task.protocol,
            max_atoms=self.task.max_atoms,
            engine=self.task.engine,
        )
        row = {STATUS: OK, ERROR: "", **took, **values_of(generations, options)}
        if content.force_constants is not None:
            theirs = SupercellWaves.of(content)
            row |= compare_modes(generations[0].waves, theirs, options)
        if (phase := self._phase(material)) is not None:
            end = to_ase(row[STRUCTURE])
            row[SAME_AS_REFERENCE] = is_same_phase(end, phase, options.symprec)
        if self.folder is not None:
            file = self._frames_file(material.name, label)
            make_folder(file.parent)
            frames = path_frames(generations, material.name)
            with replacing(file) as partial:
                ase.io.write(partial, frames, format="extxyz")
        row[SECONDS] = time.perf_counter() - started
        return row

    def write(self, record: Record, content: Reference | None) -> None:
        """Write what a crystal gave, its ends compared between the models."""
        symprec = self.task.protocol.soft_modes.symprec
        compare_phases(record["models"], symprec)
        super().write(record, content)

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up precision and recall, and name soft modes without an end."""
        return make_summary(
            rows,
            list(self.task.models),
            records,
            self.task.protocol,
            noted,
            totals=totals,
            reason=problem_of,
        )

    def _phase(self, material: Material[Any]) -> ase.Atoms | None:
        return self.phases.get(material.name, self.phases.get(""))

    def _frames_file(self, name: str, label: str) -> Path:
        assert self.folder is not None
        return self.folder.model_folder(name, label) / FRAMES_FILE


def _read_phases(path: str | Path, options: PhononReadOptions) -> dict[str, ase.Atoms]:
    """Crystals by name; of a single file under the empty name too."""
    single = SupercellOptions(supercell_matrix=[1, 1, 1])
    found = {}
    for crystal in list_crystals(str(path), single, options):
        cell = crystal.read().unitcell
        found[reference.file_name(crystal.name)] = ase.Atoms(
            numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
        )
    if Path(path).is_file() and len(found) == 1:
        found[""] = next(iter(found.values()))
    return found
