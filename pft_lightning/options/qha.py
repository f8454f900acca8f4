"""Options of thermal expansions, made of the classes that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation.qha.options import QhaOptions
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import block_of


if TYPE_CHECKING:

    class QhaBlock(Options):
        """Made of ``SupercellOptions`` and ``QhaOptions``."""

else:
    QhaBlock = block_of(SupercellOptions, QhaOptions, closed=True)
