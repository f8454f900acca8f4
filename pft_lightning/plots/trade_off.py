"""Gain against forgetting along mixes of a base model and a fine-tuned one."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pft_lightning.evaluation.folder import FORGETTING
from pft_lightning.evaluation.trade_off import Point, TradeOff
from pft_lightning.plots.style import (
    QUANTITIES,
    REFERENCE_COLOUR,
    colour,
    legend_outside,
    marker,
    new_figure,
    plain,
)


_KNEE: Final = 1  # colour of its ring
_OTHERS: Final = 2  # colour of the first model that is compared


def plot_trade_off(trade_off: TradeOff) -> Figure:
    """Draw the curve with its knee, and beside it how each error changes with the mix.

    Changes are in per cent of the base model's errors, or as ``own_labels`` says. Up
    and left is better in the first plot, down in the second.

    Args:
        trade_off: from ``describe_trade_off``.
    """
    figure = new_figure(11.0, 5.2)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 1.1]))
    mixes = [point for point in trade_off["points"] if point["mix"] is not None]
    others = [point for point in trade_off["points"] if point["mix"] is None]
    left.suptitle("Gain against forgetting")
    axes = left.subplots()
    handles = _draw_curve(axes, mixes, others, trade_off["knee"])
    if trade_off.get("own_labels"):
        axes.set_xlabel(
            "forgetting: errors on upstream frames, of the fine-tuned model's"
        )
    legend_outside(left, handles, columns=2)
    right.suptitle("Every error along the way")
    handles = _draw_changes(right.subplots(), mixes, trade_off["knee"])
    legend_outside(right, handles, columns=3)
    return figure


def _draw_curve(
    axes: Axes, mixes: list[Point], others: list[Point], knee: float | None
) -> list[Artist]:
    known = [p for p in mixes if p["gain"] is not None and p["forgetting"] is not None]
    places = np.array([_place(point) for point in known]).reshape(-1, 2)
    axes.plot(*places.T, color=colour(0), marker="o")
    axes.plot(*places[[0, -1]].T if len(places) else ([], []), **_CHORD)
    handles: list[Artist] = [
        Line2D([], [], color=colour(0), marker="o", label="mix of base and fine-tuned"),
        Line2D([], [], **_CHORD, label="straight between them"),
    ]
    for point, place in zip(known, places, strict=True):
        axes.annotate(
            f"{point['mix']:g}",
            (place[0], place[1]),
            xytext=(-7, 5),
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )
        if point["mix"] == knee:
            ring: dict[str, Any] = {
                **{"marker": "o", "markersize": 15, "markerfacecolor": "none"},
                **{"markeredgecolor": colour(_KNEE), "markeredgewidth": 2, "ls": ""},
            }
            axes.plot(*place, **ring)
            name = f"knee, mix {knee:g}"
            handles.append(Line2D([], [], **{**ring, "markersize": 9}, label=name))
    for index, point in enumerate(others, _OTHERS):
        if point["gain"] is None or point["forgetting"] is None:
            continue
        shown = {"color": colour(index), "marker": marker(index), "ls": ""}
        axes.plot(*_place(point), **shown, markersize=8)  # type: ignore[arg-type]
        handles.append(Line2D([], [], **shown, label=plain(point["label"])))  # type: ignore[arg-type]
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("forgetting: rise of errors on upstream frames (mean)")
    axes.set_ylabel("gain: fall of phonon errors (mean)")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(0.12)
    return handles


_CHORD: Final[dict[str, Any]] = {"color": REFERENCE_COLOUR, "linestyle": "--"}


def _place(point: Point) -> tuple[float, float]:
    assert point["gain"] is not None
    assert point["forgetting"] is not None
    return point["forgetting"], point["gain"]


def _draw_changes(axes: Axes, mixes: list[Point], knee: float | None) -> list[Artist]:
    names = dict.fromkeys(name for point in mixes for name in point["changes"])
    handles: list[Artist] = []
    for upstream in (False, True):
        chosen = [name for name in names if (name in FORGETTING) == upstream]
        for index, name in enumerate(chosen):
            found = [p for p in mixes if name in p["changes"]]
            (line,) = axes.plot(
                [p["mix"] or 0.0 for p in found],
                [p["changes"][name] for p in found],
                color=colour(index),
                linestyle="--" if upstream else "-",
                marker=marker(index),
                markersize=6,
                markerfacecolor="white" if upstream else colour(index),
                label=QUANTITIES.get(name, (name.replace("_", " "), ""))[0],
            )
            handles.append(line)
    if knee is not None:
        axes.axvline(knee, color=colour(_KNEE), linewidth=4, alpha=0.25)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("mix: 0 base model, 1 fine-tuned")
    axes.set_ylabel("change of the error (full: phonons, hollow: upstream)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return handles
