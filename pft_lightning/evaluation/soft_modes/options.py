"""What is computed of soft modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.option_types import (
    Angstrom,
    As,
    Count,
    NAtoms,
    Natural,
    Positive,
    Symprec,
    Terahertz,
    Unit,
    Words,
)


_Thresholds = Annotated[
    list[Terahertz], Field(min_length=1), Words("frequencies in THz, e.g. [0.1,0.3]")
]
_Tolerances = Annotated[
    list[Symprec], Field(min_length=1), Words("lengths in Å, e.g. [0.001,0.1]")
]


@dataclass(frozen=True, slots=True)
class SoftModeOptions:
    """Which soft modes are followed, and how far.

    Attributes:
        threshold: modes below minus this frequency are soft.
        max_modes: soft modes of a crystal whose wells are computed, the lowest first.
        max_directions: directions of each mode, those of highest symmetry first.
        max_cell_atoms: directions that need a larger cell are left out, and counted.
        reach: how far minima are searched for at first, as the displacement of the atom
            that moves most; farther where the energy still falls, and nearer where it
            has risen at the first point.
        points: amplitudes of a well on each side, up to 1.5 times that of its minimum.
        candidates: minima that are relaxed, the lowest first; the one that ends lowest
            is followed.
        generations: how often a soft mode is followed, that of the crystal being the
            first; 0 computes no wells.
        thresholds: frequencies at which imaginary modes are compared with those of
            DFT.
        symprec: tolerance of the space groups that are compared.
        tolerances: others at which the space group of an end is given.
    """

    threshold: Terahertz = 0.1
    max_modes: Count = 2
    max_directions: Count = 4
    max_cell_atoms: NAtoms = 80
    reach: Angstrom = 0.5
    points: Annotated[int, Field(ge=2, le=1000), Unit("points")] = 9
    candidates: Count = 3
    generations: Natural = 2
    thresholds: Annotated[tuple[float, ...], As(_Thresholds)] = (0.1, 0.3)
    symprec: Symprec = 1e-3
    tolerances: Annotated[tuple[Positive, ...], As(_Tolerances)] = (1e-5, 1e-2, 1e-1)

    def __post_init__(self) -> None:
        """Take lists from configuration files, and check the values.

        Raises:
            ConfigError: a number is too small.
        """
        for name in ("thresholds", "tolerances"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        least = {"max_modes": 1, "max_directions": 1, "candidates": 1, "points": 2}
        least |= {"generations": 0, "threshold": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(
                    f"soft_modes.{name}={getattr(self, name)}; at least {smallest}."
                )
        for name in ("reach", "symprec"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"soft_modes.{name}={getattr(self, name)}; a positive length in Å."
                )
