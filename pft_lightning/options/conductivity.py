"""Options of conductivities, made of the classes that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.conductivity.structures import ConductivityOptions
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import block_of


if TYPE_CHECKING:

    class ConductivityBlock(Options):
        """Made of ``ConductivityOptions``."""

    class ConductivityProtocolOptions(Options):
        """Made of ``ConductivityProtocol``."""

else:
    ConductivityBlock = block_of(ConductivityOptions, closed=True)
    ConductivityProtocolOptions = block_of(ConductivityProtocol, closed=True)
