"""Options of soft modes, made of the classes that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import block_of


if TYPE_CHECKING:

    class SoftModeBlock(Options):
        """Made of ``SupercellOptions`` and ``SoftModeOptions``."""

else:
    SoftModeBlock = block_of(SupercellOptions, SoftModeOptions, closed=True)
