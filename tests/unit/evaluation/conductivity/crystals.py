"""A crystal that conducts by particles and by coherence, in well under a second."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk

from pft_lightning.evaluation.conductivity.cells import ConductivityCells
from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.testing import PairPotential


DOUBLE = 2 * np.eye(3, dtype=int)
MESH = (3, 3, 3)
PROTOCOL = ConductivityProtocol(name="test", fmax=1e-3)


def needs_phono3py() -> None:
    pytest.importorskip("phono3py", "4.10", reason="phono3py 4.10 is not installed")


def potential() -> PairPotential:
    return PairPotential(4.0, (8, 11, 12, 17, 29))


def crystal(a: float = 2.52) -> ase.Atoms:
    """MgO of the type of CsCl, which is stable with this potential; minimum 2.5 Å."""
    return bulk("MgO", "cesiumchloride", a)


def write_frames(path: Path, *frames: ase.Atoms) -> Path:
    """Extended XYZ as phononDB's."""
    ase.io.write(path, list(frames), format="extxyz")
    return path


def frame(mp_id: str = "mp-1", a: float = 2.5, **info) -> ase.Atoms:
    """A frame of such a file; info set to None is left out."""
    atoms = crystal(a)
    known = {
        "mp_id": mp_id,
        "name": "MgO",
        "fc2_supercell": DOUBLE,
        "fc3_supercell": DOUBLE,
        "q_mesh": np.array(MESH),
        **info,
    }
    atoms.info.update({k: v for k, v in known.items() if v is not None})
    return atoms


def cells(atoms: ase.Atoms | None = None, mesh=MESH) -> ConductivityCells:
    atoms = crystal() if atoms is None else atoms
    return ConductivityCells(atoms, DOUBLE, DOUBLE, mesh, ("mp-1",))
