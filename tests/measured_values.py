"""Measured values of two small crystals, which no potential has."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase.build import bulk


_TABLES = {
    "modes.csv": """structure,q1,q2,q3,frequency,unit,branch,degeneracy,uncertainty
LiF,0,0,0,260,cm-1,TO,2,10
LiF,1/2,1/2,0,20,meV,,,2
NaCl,1/2,1/2,1/2,3.4,THz,1,2,
""",
    "heats.csv": """structure,temperature,heat_capacity,unit
NaCl,100,20,J/K/mol-atom
NaCl,300,24,J/K/mol-atom
""",
}


def write_measured(folder: Path) -> None:
    """Write tables and the crystals that they name.

    Args:
        folder: that there is.
    """
    for name, lattice_constant in (("LiF", 4.9), ("NaCl", 5.3)):
        (folder / name).mkdir()
        ase.io.write(folder / name / "POSCAR", bulk(name, "rocksalt", lattice_constant))
    for name, text in _TABLES.items():
        (folder / name).write_text(text)
