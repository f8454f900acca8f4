"""What all figures share: colours, names with units, legends beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D


REFERENCE_COLOUR: Final = "0.62"
REFERENCE_NAME: Final = "DFT"

# Okabe and Ito: told apart with any colour vision.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# After all colours, the next models get another line.
LineStyle = Literal["-", "--", ":", "-."]
_LINES: Final[tuple[LineStyle, ...]] = ("-", "--", ":", "-.")
_MARKERS: Final = ("o", "^", "s", "D", "v", "P")

_LONGEST_NAME: Final = 36

# Quantity -> name as matplotlib text, unit.
QUANTITIES: Final = {
    "mesh_frequency_mae": ("frequency MAE", "THz"),
    "commensurate_frequency_mae": ("frequency MAE, commensurate q", "THz"),
    "force_constants_mae": ("force constants MAE", "eV/Å²"),
    "max_frequency_error": (r"$\omega_\mathrm{max}$ error", "THz"),
    "max_frequency_error_K": (r"$\omega_\mathrm{max}$ error", "K"),
    "entropy_error": ("$S$ error", "J/K/mol"),
    "free_energy_error": ("$F$ error", "kJ/mol"),
    "heat_capacity_error": ("$C_V$ error", "J/K/mol"),
    "entropy_curve_mae": ("$S(T)$ MAE", "J/K/mol"),
    "free_energy_curve_mae": ("$F(T)$ MAE", "kJ/mol"),
    "heat_capacity_curve_mae": ("$C_V(T)$ MAE", "J/K/mol"),
    "dos_error": ("DOS error", ""),
    "frequency_ratio": ("frequency ratio", ""),
    "volume_ratio": ("volume ratio", ""),
    "max_frequency": (r"$\omega_\mathrm{max}$", "THz"),
    "entropy": ("$S$", "J/K/mol"),
    "free_energy": ("$F$", "kJ/mol"),
    "heat_capacity": ("$C_V$", "J/K/mol"),
    "energy_mae": ("energy MAE", "eV/atom"),
    "forces_mae": ("forces MAE", "eV/Å"),
    "stress_mae": ("stress MAE", "eV/Å³"),
}


def with_unit(quantity: str) -> str:
    """Name of a quantity with its unit, as matplotlib text."""
    name, unit = QUANTITIES[quantity]
    return f"{name} ({unit})" if unit else name


def colour(index: int) -> str:
    """Colour of the model with this index."""
    return _COLOURS[index % len(_COLOURS)]


def line_style(index: int) -> LineStyle:
    """Line of the model with this index."""
    return _LINES[index // len(_COLOURS) % len(_LINES)]


def marker(index: int) -> str:
    """Marker of the model with this index."""
    return _MARKERS[index % len(_MARKERS)]


def plain(text: str) -> str:
    """Text that matplotlib draws as it is, shortened where it is long.

    Names of files and models may hold "$", which would start a formula, or begin with
    "_", which would hide them from legends.
    """
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME - 1]}…"
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that belongs to no window; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def reference_handle() -> Line2D:
    """Legend entry of the DFT reference."""
    return Line2D([], [], color=REFERENCE_COLOUR, linewidth=3, label=REFERENCE_NAME)


def line_handles(names: Sequence[str], *, reference: bool = False) -> list[Artist]:
    """Legend entries of models drawn as lines."""
    lines: list[Artist] = [
        Line2D([], [], color=colour(i), linestyle=line_style(i), label=plain(name))
        for i, name in enumerate(names)
    ]
    return [reference_handle(), *lines] if reference else lines


def marker_handles(names: Sequence[str]) -> list[Artist]:
    """Legend entries of models drawn as points."""
    return [
        Line2D([], [], color=colour(i), marker=marker(i), ls="", label=plain(name))
        for i, name in enumerate(names)
    ]


def legend_outside(figure: Figure | SubFigure, handles: Sequence[Artist]) -> None:
    """Put the legend below the axes, where it covers no data."""
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
    )
