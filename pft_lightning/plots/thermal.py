"""Thermal properties against temperature, models over DFT."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from pft_lightning.evaluation.folder import ENTROPY, FREE_ENERGY, HEAT_CAPACITY
from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    colour,
    legend_outside,
    line_handles,
    line_style,
    new_figure,
    plain,
)
from pft_lightning.types import PhononProperties


# Field -> name with unit.
PANELS = {
    FREE_ENERGY: "Free energy $F$ (kJ/mol)",
    ENTROPY: "Entropy $S$ (J/K/mol)",
    HEAT_CAPACITY: "Heat capacity $C_V$ (J/K/mol)",
}


def plot_thermal(
    reference: PhononProperties | None,
    models: Mapping[str, PhononProperties],
    *,
    title: str = "",
) -> Figure:
    """Draw F, S and C_V per mole of primitive cells against temperature.

    Args:
        reference: of DFT, drawn beneath; None where unknown.
        models: by label.
        title: above the axes.
    """
    figure = new_figure(9.0, 3.4)
    for axes, (field, name) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        if reference is not None:
            axes.plot(
                reference.temperatures,
                getattr(reference, field),
                color=REFERENCE_COLOUR,
                linewidth=3.0,
            )
        for index, properties in enumerate(models.values()):
            axes.plot(
                properties.temperatures,
                getattr(properties, field),
                color=colour(index),
                linestyle=line_style(index),
                linewidth=1.3,
            )
        axes.set_xlabel("Temperature (K)")
        axes.set_ylabel(name)
        axes.margins(x=0)
    note = "per mole of primitive cells"
    figure.suptitle(f"{plain(title)}, {note}" if title else note, fontsize="medium")
    legend_outside(figure, line_handles(list(models), reference=reference is not None))
    return figure
