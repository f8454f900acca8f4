"""Which volumes a quasi-harmonic calculation takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import numpy as np
from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.option_types import As, Positive, Unit, Words


EquationOfState = Literal["vinet", "birch_murnaghan", "murnaghan"]

# phonopy fits entropies and heat capacities over volumes by five coefficients.
MIN_VOLUMES: Final = 5

_Range = Annotated[
    list[Positive],
    Field(min_length=2, max_length=2),
    Words("two numbers above 0, the smaller one first, e.g. [0.94,1.1]"),
]


@dataclass(frozen=True, slots=True)
class QhaOptions:
    """Which volumes a quasi-harmonic calculation takes.

    Attributes:
        n_volumes: number of volumes, evenly spaced.
        volume_range: smallest and largest volume, relative to the crystal's; the
            volume at the highest temperature should lie within.
        equation_of_state: that the free energy is fitted by at each temperature.
    """

    n_volumes: Annotated[int, Field(ge=MIN_VOLUMES, le=1000), Unit("volumes")] = 9
    volume_range: Annotated[tuple[float, float], As(_Range)] = (0.94, 1.1)
    equation_of_state: EquationOfState = "vinet"

    def __post_init__(self) -> None:
        """Take lists from configuration files, and check the values.

        Raises:
            ConfigError: they give no range of volumes.
        """
        given = tuple(map(float, self.volume_range))
        object.__setattr__(self, "volume_range", given)
        if self.n_volumes < MIN_VOLUMES:
            raise ConfigError(
                f"qha.n_volumes={self.n_volumes}; at least {MIN_VOLUMES} volumes."
            )
        if len(given) != 2 or not 0.3 <= given[0] < given[1] <= 3:
            raise ConfigError(
                f"qha.volume_range={list(given)}; expected the smallest and the "
                "largest volume relative to the crystal's, between 0.3 and 3, e.g. "
                "[0.94,1.1]."
            )
        if self.equation_of_state not in get_args(EquationOfState):
            raise ConfigError(
                f"qha.equation_of_state={self.equation_of_state!r}; expected one of "
                f"{', '.join(get_args(EquationOfState))}."
            )

    def ratios(self) -> list[float]:
        """All volumes, relative to the crystal's."""
        found = np.linspace(*self.volume_range, self.n_volumes)
        # So that the same volume of another range is known again.
        return [float(ratio) for ratio in found.round(6)]
