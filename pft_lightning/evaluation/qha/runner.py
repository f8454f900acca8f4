"""Thermal expansion of models on crystals, by the quasi-harmonic approximation.

How a folder is resumed, and processes share the work, is said in
``evaluation.materials``. Every volume is kept when it is done, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy import Phonopy

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.cells import PhononCells
from pft_lightning.data.crystals import check_bulk
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation.crystals import list_materials
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
from pft_lightning.evaluation.gruneisen import ModeGruneisen, gruneisen_parameters
from pft_lightning.evaluation.materials import Evaluated, Evaluator
from pft_lightning.evaluation.properties import mesh_numbers
from pft_lightning.evaluation.protocols import Protocol, get_protocol, relax
from pft_lightning.evaluation.qha.columns import (
    COLUMNS,
    REMARK,
    compare,
    compare_modes,
    gruneisen_of,
    remark_of,
    totals,
    values_of,
)
from pft_lightning.evaluation.qha.files import write_curves
from pft_lightning.evaluation.qha.fit import fit_volumes
from pft_lightning.evaluation.qha.options import QhaOptions
from pft_lightning.evaluation.qha.reference import (
    QhaReference,
    check_modes,
    per_primitive_cell,
    read_references,
)
from pft_lightning.evaluation.qha.volumes import (
    Setting,
    VolumePoint,
    compute_volume,
    with_margins,
)
from pft_lightning.evaluation.records import identify
from pft_lightning.evaluation.reference import Material
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.task import make_task
from pft_lightning.files import make_folder, replacing, write_atomically
from pft_lightning.json_files import find_json, write_json
from pft_lightning.types import Engine
from pft_lightning.units import unit_system


GRUNEISEN_FILE: Final = "gruneisen.npz"
_SUPERCELL: Final = SupercellOptions()
_OPTIONS: Final = QhaOptions()


@dataclass(frozen=True, slots=True)
class QhaProtocol(Protocol):
    """A protocol of phonons, and the volumes that they are computed at.

    Attributes:
        qha: which volumes.
    """

    qha: QhaOptions = _OPTIONS


def evaluate_qha(
    models: Potential | Mapping[str, Potential],
    structures: Spec,
    out: str | Path,
    *,
    supercell: SupercellOptions = _SUPERCELL,
    qha: QhaOptions = _OPTIONS,
    reference: str | Path | None = None,
    protocol: str | Protocol = "mdr_analytic",
    options: PhononReadOptions | None = None,
    max_atoms: int = 256,
    engine: Engine | None = None,
    noted: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluated:
    """Compute thermal expansions of models, and compare them with a reference.

    A crystal that fails is named with a reason; the others go on.

    Args:
        models: from ``load_model``, ASE calculators, or several by label.
        structures: files, folders or globs of crystals.
        out: folder to write.
        supercell: of crystals whose files have none.
        qha: which volumes.
        reference: folder of curves or force constants at several volumes, see
            ``qha.reference``; None compares nothing.
        protocol: whether the crystal is relaxed first, and ions and shape at each
            volume; how force constants are computed; temperatures.
        options: units and tolerance of structures.
        max_atoms: atoms of one pass; what bounds memory.
        engine: of Hessian-vector products; None chooses by device.
        noted: keys of ``folder.Summary`` known before: versions, functionals.
        progress: show a progress bar.

    Raises:
        ConfigError: an option that cannot be used.
        DataFormatError: a path matches nothing, or a reference is none.
        StorageError: the disk is full, or the folder cannot be written.
    """
    options = options or PhononReadOptions()
    task = make_task(models, get_protocol(protocol), max_atoms, engine)
    known: Mapping[str, QhaReference] = {}
    if reference is not None:
        known = read_references(reference, task.protocol.mesh, options)
    work = _Qha(task, EvaluationFolder(out), qha, known)
    materials = list_materials(structures, supercell, options, check=check_bulk)
    return work.evaluate(materials, noted, progress=progress)


@dataclass(frozen=True, eq=False)
class _Qha(Evaluator[Protocol, Phonopy]):
    """What is done with every crystal.

    Attributes:
        options: which volumes.
        reference: by the name of the crystal; under the empty name of all.
    """

    folder: EvaluationFolder
    options: QhaOptions
    reference: Mapping[str, QhaReference]

    what = "thermal expansion"
    columns = COLUMNS

    def keys_of(self, material: Material[Any]) -> dict[str, str]:
        """What the row of each model on a crystal depends on."""
        known = self._known(material).to_plain()
        given = [[getattr(self.options, f.name) for f in fields(QhaOptions)], known]
        keys = self.task.keys_of(material)
        return {label: digest([key, "qha", given]) for label, key in keys.items()}

    def identify(self, material: Material[Any], content: Phonopy) -> Row:
        """Columns that say which crystal a row is of."""
        return identify(material, content)

    def row(self, label: str, material: Material[Any], content: Phonopy) -> Row:
        """Thermal expansion of a model on a crystal, and what comes with it.

        Raises:
            RelaxationError: the crystal itself cannot be relaxed.
            QuasiHarmonicError: too few volumes are stable, or none is the minimum.
        """
        started = time.perf_counter()
        protocol, place = self.task.protocol, self._place(label, material)
        setting, crystal, steps = self._setting(label, content)
        points = [
            self._point(setting, crystal, ratio, place, self._key(label, material))
            for ratio in self.options.ratios()
        ]
        found, end = fit_volumes(
            points,
            self.options,
            first=protocol.temperatures[0],
            temperature=protocol.temperature,
        )
        write_curves(place, found, points)
        row: Row = {STATUS: OK, ERROR: ""}
        row |= values_of(found, points, protocol.temperature, end)
        known = self._known(material)
        if known.curves:
            theirs = per_primitive_cell(known.curves, found, material.name)
            row |= compare(found, theirs, protocol.temperature)
        if known.modes is not None:
            check_modes(known.modes, len(crystal.primitive), material.name)
        row |= self._gruneisen(setting, crystal, place, row[REMARK], known.modes)
        ratio = crystal.unitcell.volume / content.unitcell.volume
        row |= {VOLUME_RATIO: float(ratio), RELAX_STEPS: steps}
        row[SECONDS] = time.perf_counter() - started
        return row

    def summarise(
        self,
        rows: list[Row],
        records: list[Record],
        noted: Mapping[str, Any] | None,
    ) -> Summary:
        """Sum up errors, and name volumes that were left out."""
        protocol = self.task.protocol
        values = {
            field.name: getattr(protocol, field.name) for field in fields(Protocol)
        }
        return make_summary(
            rows,
            list(self.task.models),
            records,
            QhaProtocol(**values, qha=self.options),
            noted,
            totals=totals,
            reason=remark_of,
        )

    def _setting(self, label: str, content: Phonopy) -> tuple[Setting, Phonopy, int]:
        """How volumes are computed, the relaxed crystal, and the steps it took."""
        model, protocol = self.task.models[label], with_margins(self.task.protocol)
        crystal, steps = content, 0
        if protocol.relax:
            atoms, steps = relax(model, content, protocol)
            crystal = PhononCells.of(content, unit_system("vasp")).to_phonopy(
                cell=np.array(atoms.cell),
                scaled_positions=atoms.get_scaled_positions(wrap=False),
            )
        mesh = mesh_numbers(crystal, protocol.mesh)
        limits = (self.task.max_atoms, self.task.engine)
        return Setting(model, protocol, mesh, *limits), crystal, steps

    def _point(
        self, setting: Setting, crystal: Phonopy, ratio: float, place: Path, key: str
    ) -> VolumePoint:
        """One volume, computed or as it was before."""
        file = place / f"volume-{ratio:.6f}.json"
        stored = find_json(file) or {}
        if stored.get("key") == key:
            point = VolumePoint.from_plain(stored.get("point") or {})
            if point is not None:
                return point
        point, phonon = compute_volume(setting, crystal, ratio)
        make_folder(place)
        if phonon is not None:
            with replacing(file.with_suffix(".yaml")) as partial:
                phonon.save(partial, settings={"force_constants": True})
        write_json(file, {"key": key, "point": point.to_plain()})
        return point

    def _gruneisen(
        self,
        setting: Setting,
        crystal: Phonopy,
        place: Path,
        remark: str,
        theirs: ModeGruneisen | None,
    ) -> Row:
        """Columns of mode Grüneisen parameters; why there are none in the remark."""
        why = "ASE calculators give no third derivatives"
        if isinstance(setting.model, EnergyModel):
            found = gruneisen_parameters(
                setting.model,
                crystal,
                mesh=(setting.mesh[0], setting.mesh[1], setting.mesh[2]),
                max_atoms=setting.max_atoms,
                engine=setting.engine,
            )
            lowest = float(found.frequencies.min())
            if lowest >= -setting.protocol.instability_threshold:
                _save(place / GRUNEISEN_FILE, found, theirs)
                temperature = setting.protocol.temperature
                row = gruneisen_of(found, temperature)
                if theirs is not None:
                    row |= compare_modes(row, gruneisen_of(theirs, temperature))
                return row
            why = f"imaginary modes, the lowest at {lowest:.3g} THz"
        own = f"no mode Grüneisen parameters: {why}"
        return {REMARK: "; ".join(filter(None, [remark, own]))}

    def _known(self, material: Material[Any]) -> QhaReference:
        nothing = self.reference.get("", QhaReference({}, None))
        return self.reference.get(material.name, nothing)

    def _place(self, label: str, material: Material[Any]) -> Path:
        return self.folder.model_folder(material.name, label)

    def _key(self, label: str, material: Material[Any]) -> str:
        """What a volume depends on beside its ratio: not on the others."""
        return self.task.keys_of(material)[label]


def _save(path: Path, found: ModeGruneisen, theirs: ModeGruneisen | None) -> None:
    """Write mode Grüneisen parameters, for figures and for the user."""
    arrays = {
        f"{prefix}{field.name}": getattr(modes, field.name)
        for prefix, modes in (("", found), ("reference_", theirs))
        if modes is not None
        for field in fields(ModeGruneisen)
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
