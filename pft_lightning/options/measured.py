"""Options of comparisons with measured values, made of the class that takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pft_lightning.evaluation.measured.options import MeasuredOptions
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import block_of


if TYPE_CHECKING:

    class MeasuredBlock(Options):
        """Made of ``MeasuredOptions``."""

else:
    MeasuredBlock = block_of(MeasuredOptions, closed=True)
