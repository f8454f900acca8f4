"""Born charges of the crystals that values were measured of."""

from __future__ import annotations

import numpy as np
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.crystals import Crystal, crystal_name, is_phonon_source
from pft_lightning.data.readers.born import charges_of_file, find_atoms
from pft_lightning.data.readers.names import (
    BORN_FILE,
    find_file,
    is_structure_source,
)
from pft_lightning.physics.long_range import BornCharges


def charges_of(
    listed: Crystal, phonon: Phonopy, cell: PhonopyAtoms
) -> tuple[BornCharges | None, str]:
    """Take Born charges from a phonopy file, or from BORN beside another file.

    Args:
        listed: the crystal.
        phonon: of it, whose primitive cell BORN is of.
        cell: primitive cell in whose order they are wanted, Å.

    Returns:
        Those of ``cell``, which sum to zero as phonopy makes them; or None, and why.
    """
    nac = phonon.nac_params
    if nac is None:
        found, note = _beside(listed, phonon)
        if found is None:
            return None, note
        born, dielectric = found["born"], found["dielectric"]
    else:
        born, dielectric = nac["born"], nac["dielectric"]
    atoms = find_atoms(cell, phonon.primitive)
    if atoms is None:
        return None, f"{listed.source}: its atoms are not those of its primitive cell."
    charges = np.array(born, dtype=np.float64)[atoms]
    return BornCharges(charges, np.array(dielectric, dtype=np.float64)).neutral(), ""


def _beside(
    listed: Crystal, phonon: Phonopy
) -> tuple[dict[str, np.ndarray] | None, str]:
    path = listed.path
    if path is None or is_phonon_source(path):
        return None, (
            f"{listed.source}: neither it nor a BORN beside it has some that can be "
            "used, one of each atom and a positive dielectric tensor."
        )
    file = find_file(path.parent, BORN_FILE)
    if file is None:
        return None, f"{listed.source}: no BORN lies beside it."
    names = {
        crystal_name(other)
        for other in path.parent.iterdir()
        if other.is_file() and is_structure_source(other)
    }
    if len(names) > 1:
        return None, f"{file}: lies beside several crystals."
    found, note = charges_of_file(file, phonon, float(phonon.symmetry.tolerance))
    # What follows the words that they are left out.
    reason = (note or "").partition(": ")[2]
    return found, f"{reason.rstrip('.')}."
