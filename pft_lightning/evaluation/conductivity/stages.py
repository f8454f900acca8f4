"""Stages on the way to a conductivity; each is kept, and is not computed twice.

Files in the folder of a material and a model:

=================  ==================================================================
``relaxed.json``   the relaxed crystal
``fc2.npz``        forces of second order on displaced supercells
``fc3.npz``        forces of third order
``kappa.npz``      conductivity mode by mode, with both of its parts
=================  ==================================================================

Each says by a key what it depends on: model, crystal, the protocol up to there.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ase
import numpy as np

from pft_lightning.evaluation.conductivity.adapter import (
    Displaced,
    ThirdOrderPhonons,
    Transport,
)
from pft_lightning.evaluation.conductivity.cells import ConductivityCells
from pft_lightning.evaluation.conductivity.protocol import (
    ConductivityProtocol,
    describe,
)
from pft_lightning.evaluation.conductivity.relaxation import (
    RelaxedCrystal,
    relax_crystal,
)
from pft_lightning.evaluation.conductivity.score import (
    Conductivity,
    find_imaginary,
)
from pft_lightning.evaluation.conductivity.totals import BROKEN, COMPUTED, IMAGINARY
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.folder import VOLUME_RATIO
from pft_lightning.evaluation.force_constants import Potential, displaced_forces
from pft_lightning.files import make_folder, write_atomically
from pft_lightning.json_files import find_json, write_json


RELAXED_FILE: Final = "relaxed.json"
_KAPPA_FILE: Final = "kappa.npz"
_FORCES_FILE: Final = "fc{}.npz"

_KEY: Final = "key"
_ARRAYS: Final = ("modes", "weights", "q_points", "frequencies")
_PARTS: Final = ("particle", "coherence", "heat_capacities")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a material with a model.

    Attributes:
        kind: ``COMPUTED``, ``IMAGINARY`` or ``BROKEN`` of ``totals``.
        reason: why there is no conductivity; empty where there is one.
        relaxed: the crystal.
        frequencies: lowest and highest on the mesh, THz; None where not computed.
        n_displaced: supercells of second and third order.
        n_atoms: of the supercells of second and third order.
        n_primitive: atoms of the primitive cell; 0 where not computed.
        transport: None where there is no conductivity.
        key: of the file that it is kept in.
    """

    kind: str
    reason: str
    relaxed: RelaxedCrystal
    frequencies: tuple[float, float] | None = None
    n_displaced: tuple[int, int] = (0, 0)
    n_primitive: int = 0
    transport: Transport | None = None
    key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The way of one material with one model.

    Attributes:
        folder: of the files.
        model: from ``load_model`` in float64, or an ASE calculator.
        cells: crystal and supercells.
        mesh: of q-points, or a length in Å.
        protocol: that is followed.
        identity: what tells model, crystal and libraries from others.
        max_atoms: of one pass.
        progress: show progress bars.
    """

    folder: Path
    model: Potential
    cells: ConductivityCells
    mesh: tuple[int, int, int] | float
    protocol: ConductivityProtocol
    identity: str
    max_atoms: int
    progress: bool

    def run(self) -> Outcome:
        """Go the way to its end, or to where the crystal fails.

        Raises:
            PFTError: a stage cannot be computed.
        """
        relaxed = self.relax()
        before, after = relaxed.space_groups
        if before != after:
            reason = f"the relaxation led from space group {before} to {after}"
            return Outcome(BROKEN, reason, relaxed)
        phonons = ThirdOrderPhonons(self.cells, relaxed.atoms, self.mesh, self.protocol)
        second = phonons.second_order()
        found, points = phonons.set_second_order(self.forces(2, second))
        counts = (len(second.positions), 0)
        extent = (float(np.nanmin(found)), float(np.nanmax(found)))
        imaginary = find_imaginary(found, points, self.protocol.acoustic_limit)
        if imaginary is not None:
            return Outcome(
                IMAGINARY, imaginary, relaxed, extent, counts, phonons.n_primitive
            )
        third = phonons.third_order()
        key = digest([self.identity, describe(self.protocol), phonons.mesh])
        transport = read_transport(self.folder, key)
        if transport is None:
            phonons.set_third_order(self.forces(3, third))
            transport = phonons.compute()
            self._keep_transport(key, transport)
        counts = (len(second.positions), len(third.positions))
        return Outcome(
            COMPUTED, "", relaxed, extent, counts, phonons.n_primitive, transport, key
        )

    def relax(self) -> RelaxedCrystal:
        """Relax the crystal, or read what was relaxed before."""
        key = digest([self.identity, self.protocol.relaxation()])
        path = self.folder / RELAXED_FILE
        kept = find_json(path) or {}
        if kept.get(_KEY) == key:
            try:
                return _from_json(kept, self.cells.atoms)
            except (KeyError, TypeError, ValueError):
                pass  # A damaged file is made again.
        relaxed = relax_crystal(self.model, self.cells.atoms, self.protocol)
        write_json(path, {_KEY: key, **_to_json(relaxed)})
        return relaxed

    def forces(self, order: int, displaced: Displaced) -> np.ndarray:
        """Compute forces on displaced supercells, or read them.

        Args:
            order: 2 or 3.
            displaced: where.

        Returns:
            (n_displaced, n_atoms, 3), eV/Å.
        """
        key = digest(
            [self.identity, self.protocol.relaxation(), self.protocol.forces()]
        )
        path = self.folder / _FORCES_FILE.format(order)
        kept = _read_arrays(path, key, ("forces",))
        if kept and kept["forces"].shape == displaced.positions.shape:
            return kept["forces"]
        found = np.array(
            displaced_forces(
                self.model,
                displaced.supercell,
                displaced.positions,
                self.max_atoms,
                self.progress,
            )
        )
        if np.isfinite(found).all():
            _write_arrays(path, key, {"forces": found})
        return found

    def _keep_transport(self, key: str, transport: Transport) -> None:
        found = transport.conductivity
        arrays = {name: getattr(found, name) for name in _ARRAYS}
        arrays |= {name: getattr(transport, name) for name in _PARTS}
        arrays |= {
            "temperature": np.array(found.temperature),
            "kappa": np.array(found.kappa),
        }
        _write_arrays(self.folder / _KAPPA_FILE, key, arrays)


def read_transport(folder: Path, key: str) -> Transport | None:
    """Read the conductivity of a material and model; None where it is not there.

    Args:
        folder: of the material and model.
        key: that the row of the material has; another is of another protocol.
    """
    names = ("temperature", "kappa", *_ARRAYS, *_PARTS)
    kept = _read_arrays(folder / _KAPPA_FILE, key, names)
    return None if kept is None else _to_transport(kept)


def _to_transport(arrays: Mapping[str, np.ndarray]) -> Transport:
    conductivity = Conductivity(
        temperature=float(arrays["temperature"]),
        kappa=float(arrays["kappa"]),
        **{name: arrays[name] for name in _ARRAYS},
    )
    return Transport(conductivity, **{name: arrays[name] for name in _PARTS})


def _to_json(relaxed: RelaxedCrystal) -> dict[str, Any]:
    return {
        "cell": relaxed.atoms.cell.array,
        "positions": relaxed.atoms.positions,
        "n_steps": relaxed.n_steps,
        "converged": relaxed.converged,
        "space_groups": relaxed.space_groups,
        VOLUME_RATIO: relaxed.volume_ratio,
    }


def _from_json(kept: Mapping[str, Any], given: ase.Atoms) -> RelaxedCrystal:
    atoms = given.copy()
    atoms.set_cell(kept["cell"])
    atoms.set_positions(kept["positions"])
    before, after = kept["space_groups"]
    return RelaxedCrystal(
        atoms=atoms,
        n_steps=int(kept["n_steps"]),
        converged=bool(kept["converged"]),
        space_groups=(int(before), int(after)),
        volume_ratio=float(kept[VOLUME_RATIO]),
    )


def _write_arrays(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    make_folder(path.parent)
    content: dict[str, Any] = {_KEY: np.array(key), **arrays}
    write_atomically(path, lambda file: np.savez_compressed(file, **content))


def _read_arrays(
    path: Path, key: str, names: tuple[str, ...]
) -> dict[str, np.ndarray] | None:
    """Read arrays; None where there is no whole file of that key."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored[_KEY]) != key:
                return None
            return {name: stored[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
