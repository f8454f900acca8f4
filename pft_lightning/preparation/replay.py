"""Frames of a base model's own labels, from nothing but the crystals of a training.

Labels on the crystals themselves would hold on to the curvature that the training is to
change. So other elements of the model take the places of theirs: the frames are of
crystals that nothing is known of but what the model says, and that shall stay so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ase
import numpy as np
from ase.data import covalent_radii

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.records import symbols_of
from pft_lightning.errors import ConfigError
from pft_lightning.preparation.pseudolabel import pseudolabel
from pft_lightning.preparation.rattle import RattleOptions, rattle


# Standard deviations of displacements, Å, and relative volumes: as far as a foundation
# model's own data go, since covalent radii are no more than a guess of its volumes.
_DISPLACEMENT: Final = (0.02, 0.2)
_VOLUME: Final = (0.85, 1.15)
# Cells of one or two atoms have hardly a force.
_MIN_ATOMS: Final = 4
# Nothing is known of the bonds of noble gases that would give a volume.
_NOBLE_GASES: Final = frozenset({2, 10, 18, 36, 54, 86})


def replay_frames(
    model: EnergyModel, crystals: Sequence[ase.Atoms], *, n_frames: int, seed: int
) -> list[ase.Atoms]:
    """Make crystals of other elements, displaced and strained, with a model's labels.

    Args:
        model: the base model, in the precision that labels are to have.
        crystals: unit cells, taken in turn; masses and targets are left aside.
        n_frames: how many.
        seed: of all draws.

    Returns:
        Frames with energy, forces and stress as ASE results.

    Raises:
        ConfigError: the model knows no other elements to put in their places, or
            displaced atoms come too near.
    """
    rng = np.random.default_rng(seed)
    known = sorted(set(model.atomic_numbers) - _NOBLE_GASES)
    frames = []
    for index in range(n_frames):
        crystal = _substitute(crystals[index % len(crystals)], known, rng)
        width = float(rng.uniform(*_DISPLACEMENT))
        options = RattleOptions(
            n_rattled=1,
            displacement=(width, width),
            volume=_VOLUME,
            min_atoms=_MIN_ATOMS,
            seed=seed,
        )
        frames += rattle(crystal, options, index=index)
    return list(pseudolabel(model, frames))


def _substitute(
    crystal: ase.Atoms, known: Sequence[int], rng: np.random.Generator
) -> ase.Atoms:
    """Put other elements in place, at the volume that covalent radii tell."""
    own = np.unique(crystal.numbers)
    others = np.setdiff1d(known, own)
    if len(others) < len(own):
        raise ConfigError(
            f"replay.n_frames: the model knows {len(others)} elements beside those of "
            f"{crystal.get_chemical_formula()} ({symbols_of(own)}), too few to put in "
            "their places. Give frames by data.upstream.train, with replay.n_frames=0."
        )
    drawn = rng.choice(others, len(own), replace=False)
    changed = ase.Atoms(
        drawn[np.searchsorted(own, crystal.numbers)],
        crystal.positions,
        cell=crystal.cell,
        pbc=crystal.pbc,
    )
    ratio = (
        covalent_radii[changed.numbers].mean() / covalent_radii[crystal.numbers].mean()
    )
    if changed.pbc.any():
        changed.set_cell(changed.cell * ratio, scale_atoms=True)
    else:
        changed.positions *= ratio
    return changed
