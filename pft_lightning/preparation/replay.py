"""Frames of a base model's own labels, from nothing but the crystals of a training.

Labels on the crystals themselves would hold on to the curvature that the training is to
change. So other elements of the model take the places of some or all of theirs: the
frames are of crystals that nothing is known of but what the model says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_DISPLACEMENT: Final = (0.1, 0.2)
_VOLUME: Final = (0.85, 1.15)
# Cells of one or two atoms have hardly a force.
_MIN_ATOMS: Final = 4
# eV/Å, largest force of a frame, about as large as in a foundation model's own data:
# labels beyond are no knowledge, and would be most of the loss.
_MAX_FORCE: Final = 20.0
# Frames that are drawn for each one that is wanted.
_DRAWS: Final = 10
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
            nearly all of its forces on them are out of range.
    """
    drawn = _draw(model, crystals, _DRAWS * n_frames, seed)
    found: list[ase.Atoms] = []
    for frame in pseudolabel(model, drawn):
        if np.abs(frame.get_forces()).max() <= _MAX_FORCE:
            found.append(frame)
        if len(found) == n_frames:
            return found
    raise ConfigError(
        f"replay.n_frames is {n_frames}: of {_DRAWS * n_frames} frames {len(found)} "
        f"have forces of {model.name} below {_MAX_FORCE:g} eV/Å. Give frames by "
        "data.upstream.train, with replay.n_frames=0."
    )


def _draw(
    model: EnergyModel, crystals: Sequence[ase.Atoms], n_frames: int, seed: int
) -> Iterator[ase.Atoms]:
    rng = np.random.default_rng(seed)
    known = sorted(set(model.atomic_numbers) - _NOBLE_GASES)
    for index in range(n_frames):
        crystal = _substitute(crystals[index % len(crystals)], known, rng)
        width = float(rng.uniform(*_DISPLACEMENT))
        options = RattleOptions(
            n_rattled=1,
            displacement=(width, width),
            volume=_VOLUME,
            min_distance=0.0,  # what comes too near has forces out of range
            min_atoms=_MIN_ATOMS,
            seed=seed,
        )
        yield from rattle(crystal, options, index=index)


def _substitute(
    crystal: ase.Atoms, known: Sequence[int], rng: np.random.Generator
) -> ase.Atoms:
    """Put other elements in place, at the volume that covalent radii tell.

    Some of the crystal's elements stay, but never all: what they do among others is
    known to the model, too, and is the first that would be forgotten.
    """
    own = np.unique(crystal.numbers)
    others = np.setdiff1d(known, own)
    replaced = rng.permutation(own)[: rng.integers(1, len(own) + 1)]
    if len(others) < len(own):
        raise ConfigError(
            f"replay.n_frames: the model knows {len(others)} elements beside those of "
            f"{crystal.get_chemical_formula()} ({symbols_of(own)}), too few to put in "
            "their places. Give frames by data.upstream.train, with replay.n_frames=0."
        )
    numbers = crystal.numbers.copy()
    for element, other in zip(
        replaced, rng.choice(others, len(replaced), replace=False), strict=True
    ):
        sites = np.flatnonzero(crystal.numbers == element)
        if len(own) == 1:  # else nothing would be left of it
            sites = rng.permutation(sites)[: rng.integers(1, len(sites) + 1)]
        numbers[sites] = other
    changed = ase.Atoms(numbers, crystal.positions, cell=crystal.cell, pbc=crystal.pbc)
    ratio = (
        covalent_radii[changed.numbers].mean() / covalent_radii[crystal.numbers].mean()
    )
    if changed.pbc.any():
        changed.set_cell(changed.cell * ratio, scale_atoms=True)
    else:
        changed.positions *= ratio
    return changed
