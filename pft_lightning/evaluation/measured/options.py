"""Which measured values potentials are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pft_lightning.data.settings import MeasuredReading
from pft_lightning.data.sources import Spec
from pft_lightning.option_types import As, Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOptions(MeasuredReading):
    """Which measured values potentials are compared with.

    Attributes:
        files: Tables (.csv), or band.yaml, mesh.yaml, thermal_properties.yaml and
            total_dos.dat of phonopy, or a list.
    """

    files: Annotated[Spec | None, As(Paths | None)] = None
