"""Phonons of a potential alone: crystals in, files that phonopy reads out.

Resumed and shared among processes as an evaluation is, see ``evaluation.materials``.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import ase
import numpy as np
from phonopy import Phonopy
from pydantic import Field

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.crystals import Crystal, list_crystals
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.names import source_state
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import (
    CRYSTAL_COLUMNS,
    ERROR,
    FAILED,
    MAX_FORCE,
    N_PRODUCTS,
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
from pft_lightning.evaluation.materials import Evaluator
from pft_lightning.evaluation.metrics import values_of
from pft_lightning.evaluation.phonopy_files import Format, file_names, write_phonons
from pft_lightning.evaluation.protocols import (
    Protocol,
    compute_phonons,
    get_protocol,
)
from pft_lightning.evaluation.records import identify
from pft_lightning.evaluation.reference import (
    Material,
    file_name,
    number_names,
)
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.task import Task, make_task
from pft_lightning.files import make_folder, remove_partials, replacing
from pft_lightning.option_types import As, Words
from pft_lightning.types import Engine


_SUPERCELL = SupercellOptions()
_Formats = Annotated[
    Annotated[list[Format], Field(min_length=1)] | Format,
    Words(f"one of {', '.join(get_args(Format))}, or a list of them"),
]
_DEFAULT_FORMATS: tuple[Format, ...] = ("phonopy_params.yaml",)


@dataclass(frozen=True, slots=True, eq=False)
class CrystalPhonons:
    """What was computed of all crystals.

    Attributes:
        rows: one per crystal, see ``evaluation.folder.CRYSTAL_COLUMNS``.
        summary: counts and failures.
        folder: that was written.
        files: folder in it with one folder of files for phonopy per crystal.
    """

    rows: list[Row]
    summary: Summary
    folder: Path
    files: Path


def compute_crystals(
    model: Mapping[str, Potential],
    structures: Spec,
    out: str | Path,
    supercell: SupercellOptions = _SUPERCELL,
    protocol: str | Protocol = "dft_cell",
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
    *,
    formats: Annotated[Sequence[Format] | Format, As(_Formats)] = _DEFAULT_FORMATS,
) -> CrystalPhonons:
    """Compute force constants of a potential, with bands and thermal properties.

    Each crystal gets a folder ``materials/<name>`` of files that phonopy reads. One
    that fails (a corrupt file, an unknown element, a relaxation that explodes) is
    named in ``summary["failures"]``; the others go on.

    Args:
        model: one potential, by its label.
        structures: files, folders or globs of crystals: CIF, POSCAR, extended XYZ and
            what else ASE reads, and phonopy files, which bring their own supercell.
        out: folder to write.
        supercell: of crystals whose files have none, or that is asked for.
        protocol: whether the crystal is relaxed first, how force constants are
            computed, and what of the phonons.
        options: units and tolerance of the symmetry search.
        max_atoms: Atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: Show progress bars.
        formats: how force constants are written: ``phonopy_params.yaml``,
            ``FORCE_CONSTANTS``, ``force_constants.hdf5``, or several of them.

    Raises:
        ConfigError: unknown protocol, or a wrong option.
        DataFormatError: a path matches nothing.
        StorageError: the disk is full, or the folder cannot be written.
    """
    chosen = (formats,) if isinstance(formats, str) else tuple(formats)
    work = _Crystals(
        make_task(model, get_protocol(protocol), max_atoms, engine),
        EvaluationFolder(out),
        tuple(sorted(chosen)),
        progress,
    )
    materials = list_materials(
        structures, supercell, options or PhononReadOptions(), check=_check_periodic
    )
    if processes.rank()[0] == 0:
        remove_partials(work.folder.materials)
    found = work.evaluate(materials, noted, progress=progress)
    if processes.rank()[0] == 0:
        _warn_of_others(work.folder, {material.name for material in materials})
    return CrystalPhonons(
        found.rows, found.summary, found.folder, work.folder.materials
    )


def _warn_of_others(folder: EvaluationFolder, names: set[str]) -> None:
    """Name files of an earlier call, which would be read with these ones."""
    found = folder.materials.iterdir() if folder.materials.is_dir() else ()
    others = sorted(one.name for one in found if one.is_dir() and one.name not in names)
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        warnings.warn(
            f"{len(others)} folders in {folder.materials} belong to no crystal of this "
            f"call ({shown}). Remove them before the folder is read as training data.",
            stacklevel=3,
        )


def list_materials(
    structures: Spec,
    supercell: SupercellOptions,
    options: PhononReadOptions,
    *,
    check: Callable[[int, str], None] | None = None,
) -> list[Material[Phonopy]]:
    """List crystals as the materials of an evaluation, each with a name of its own.

    Args:
        structures: files, folders or globs.
        supercell: of crystals whose files have none, or that is asked for.
        options: units and tolerance of the symmetry search.
        check: of the axes that each is periodic along and its source, done when it is
            read; as ``check_bulk``.

    Raises:
        DataFormatError: a path matches nothing.
    """
    choices = [asdict(supercell), asdict(options)]

    def to_material(crystal: Crystal) -> Material[Phonopy]:
        state = [] if crystal.path is None else source_state(crystal.path)
        place = str(Path(crystal.source).absolute())
        return Material(
            name=file_name(crystal.name),
            source=crystal.source,
            fingerprint=digest([place, state, crystal.index, choices]),
            read=crystal.read if check is None else partial(_read, crystal, check),
        )

    crystals = list_crystals(structures, supercell, options)
    return number_names([to_material(crystal) for crystal in crystals])


def _read(crystal: Crystal, check: Callable[[int, str], None]) -> Phonopy:
    check(crystal.n_periodic, crystal.source)
    return crystal.read()


def _check_periodic(n_periodic: int, where: str) -> None:
    """Refuse a molecule: its force constants are not those of a crystal of them."""
    if not n_periodic:
        raise DataFormatError(
            f"{where}: is a molecule, periodic along no axis; force constants are "
            "computed of crystals and slabs. Compare a molecule with its Hessian "
            "(phonons=FILE), or give it a lattice and pbc."
        )


@dataclass(frozen=True, eq=False)
class _Crystals(Evaluator[Protocol, Phonopy]):
    """What is done with every crystal.

    Attributes:
        formats: of force constants.
        progress: show the progress of products.
    """

    folder: EvaluationFolder
    formats: tuple[Format, ...]
    progress: bool

    what = "phonons"
    columns = CRYSTAL_COLUMNS

    def keys_of(self, material: Material[Phonopy]) -> dict[str, str]:
        """What the files of a crystal depend on."""
        keys = self.task.keys_of(material)
        return {label: digest([key, self.formats]) for label, key in keys.items()}

    def is_whole(self, record: Record) -> bool:
        """Tell whether all files are there that belong to the record of a crystal."""
        if any(row[STATUS] == FAILED for row in record["models"].values()):
            return True
        place = self.folder.phonopy_folder(record["name"])
        names = file_names(self.formats, self.task.protocol)
        return all((place / name).is_file() for name in names)

    def compute(self, material: Material[Phonopy]) -> Record:
        """Compute and write the phonons of one crystal; failures are in the record."""
        # Without it nobody takes files for whole that are being replaced.
        self.folder.record_file(material.name).unlink(missing_ok=True)
        shutil.rmtree(self.folder.phonopy_folder(material.name), ignore_errors=True)
        return super().compute(material)

    def identify(self, material: Material[Phonopy], content: Phonopy) -> Row:
        """Columns that say which crystal a row is of."""
        return identify(material, content)

    def row(self, label: str, material: Material[Phonopy], content: Phonopy) -> Row:
        """Compute and write the phonons of one crystal; give what they come to."""
        model = self.task.models[label]
        phonon, row = _phonons_of(model, content, self.task, self.progress)
        place = self.folder.phonopy_folder(material.name)
        make_folder(place.parent)
        with replacing(place) as made:
            made.mkdir()
            properties = write_phonons(phonon, made, self.formats, self.task.protocol)
        return row | values_of(properties, self.task.protocol)

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Count crystals and failures; with nothing to compare there are no totals."""
        labels, protocol = list(self.task.models), self.task.protocol
        summary = make_summary(
            rows, labels, records, protocol, noted, totals=lambda _: {}
        )
        return {**summary, "models": {}}


def _phonons_of(
    model: Potential, cells: Phonopy, task: Task[Protocol], progress: bool
) -> tuple[Phonopy, Row]:
    """Phonons of a potential in given cells, and what they took."""
    started = time.perf_counter()
    found = compute_phonons(
        model,
        cells,
        task.protocol,
        max_atoms=task.max_atoms,
        engine=task.engine,
        progress=progress and processes.rank()[0] == 0,
    )
    force = _largest_force(model, found.phonon)
    row = {
        STATUS: OK,
        ERROR: "",
        MAX_FORCE: force,
        VOLUME_RATIO: found.volume_ratio,
        RELAX_STEPS: found.relax_steps,
        N_PRODUCTS: found.n_products,
        SECONDS: time.perf_counter() - started,
    }
    return found.phonon, row


def _largest_force(model: Potential, phonon: Phonopy) -> float:
    """Largest force in the unit cell, eV/Å: zero where phonons are well defined."""
    cell = phonon.unitcell
    atoms = ase.Atoms(
        numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
    )
    atoms.calc = Calculator(model) if isinstance(model, EnergyModel) else model
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
