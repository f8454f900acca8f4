"""Band structures as lines of a page, which its script can name and switch off."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from pft_lightning.plots.bands import frequency_limits, path_ticks, positions_along
from pft_lightning.plots.style import REFERENCE_NAME, colour, line_class
from pft_lightning.types import BandStructure, PhononProperties


# Sizes in tenths of a pixel: whole numbers are short, and finer than a screen.
_TALL: Final = 4000
_WIDE: Final = 6400
_DOS_WIDE: Final = 1700
_LEFT: Final = 800
_ABOVE: Final = 60
_BETWEEN: Final = 200
# Of a label of the path, and of the space to the next.
_LETTER: Final = 85

# Larger figures leave out q-points in between, not bands; about 4 bytes each.
_MOST_POINTS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of the path: where it begins and ends, and what stands there."""

    first: int
    last: int
    start: str
    end: str


@dataclass(frozen=True, slots=True)
class BandLine:
    """What is drawn of a model.

    Attributes:
        label: of the model.
        style: classes of its lines.
        colour: of its lines on white; empty for the reference.
        branches: SVG path of each branch, from the lowest.
        dos: SVG path of its density of states.
    """

    label: str
    style: str
    colour: str
    branches: list[str]
    dos: str


@dataclass(frozen=True, slots=True)
class BandDrawing:
    """Bands and density of states, in tenths of a pixel from the top left.

    Attributes:
        title: what is shown.
        panel: width of the panel of bands; 0 where there are none.
        dos_left: left edge of the density of states.
        width: of everything.
        high: frequency at the upper edge, THz.
        step: that a tenth of a pixel is, THz.
        zero: place of zero; None where it lies outside.
        marks: of the frequency axis, with their text.
        ticks: of the path, with the row and the text.
        segments: of the path.
        lines: of all models, those of the reference first.
        notes: what is not drawn as it is.
        left: edge of the panels.
        above: upper edge of the panels.
        tall: height of the panels.
        dos_panel: width of the panel of the density of states.
        height: of everything.
    """

    title: str
    panel: int
    dos_left: int
    width: int
    high: float
    step: float
    zero: int | None
    marks: list[tuple[int, str]]
    ticks: list[tuple[int, int, str]]
    segments: list[Segment]
    lines: list[BandLine]
    notes: list[str]
    left: int = _LEFT
    above: int = _ABOVE
    tall: int = _TALL
    dos_panel: int = _DOS_WIDE
    height: int = _ABOVE + _TALL + 520

    @property
    def size(self) -> int:
        """Roughly the bytes that it takes in a page."""
        return sum(len(d) + 20 for line in self.lines for d in line.branches)


def draw_bands(
    reference: PhononProperties | None,
    models: Mapping[str, PhononProperties],
    *,
    title: str,
) -> BandDrawing:
    """Lay out what ``bands.plot_bands`` draws, for a page.

    Frequencies are rounded to 1/4000 of their axis. Of more than about 60,000 points
    only some q-points are kept, which a note says.

    Args:
        reference: of DFT, drawn beneath; None where unknown.
        models: by label.
        title: of the material.
    """
    found = {**({REFERENCE_NAME: reference} if reference else {}), **models}
    path = next((p.bands for p in found.values() if p.bands is not None), None)
    low, high, cut = frequency_limits(reference, models)
    notes = [f"{label} reaches beyond the axis." for label in cut]
    drawn = {
        label: p.bands
        for label, p in found.items()
        if path and p.bands is not None and p.bands.labels == path.labels
    }
    notes += [
        f"{label} has another path, not drawn."
        for label, p in found.items()
        if p.bands is not None and label not in drawn
    ]
    n_points = sum(f.size for bands in drawn.values() for f in bands.frequencies)
    stride = math.ceil(n_points / _MOST_POINTS) or 1
    if stride > 1:
        notes.append(
            f"Here at one in {stride} q-points; the file of the figure has all."
        )
    axis = _Axis(low, high)
    lines = list(_lines(found, drawn, path, axis, stride, reference is not None))
    panel = _WIDE if path else 0
    dos_left = _LEFT + (panel + _BETWEEN if path else 0)
    return BandDrawing(
        title=title,
        panel=panel,
        dos_left=dos_left,
        width=dos_left + _DOS_WIDE + 300,
        high=round(high, 6),
        step=round((high - low) / _TALL, 9),
        zero=int(axis.place(0.0)) if low < 0 < high else None,
        marks=axis.marks(),
        ticks=_ticks(path) if path else [],
        segments=_segments(path) if path else [],
        lines=lines,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """Frequencies downwards from ``high`` to ``low``, THz."""

    low: float
    high: float

    def place(self, frequencies: np.ndarray | float) -> np.ndarray:
        places = (self.high - np.asarray(frequencies)) / (self.high - self.low) * _TALL
        # Far beyond the edge nothing is seen, but digits would be counted.
        return np.clip(places, -_TALL, 2 * _TALL).round()

    def marks(self) -> list[tuple[int, str]]:
        values = MaxNLocator(nbins=7).tick_values(self.low, self.high)
        return [
            (int(self.place(value)), f"{value:.6g}".replace("-", "−"))
            for value in values
            if self.low <= value <= self.high
        ]


def _lines(
    found: Mapping[str, PhononProperties],
    drawn: Mapping[str, BandStructure],
    path: BandStructure | None,
    axis: _Axis,
    stride: int,
    has_reference: bool,
) -> Iterator[BandLine]:
    densest = max((float(p.dos.max(initial=0.0)) for p in found.values()), default=0.0)
    for index, (label, properties) in enumerate(found.items(), -int(has_reference)):
        branches: list[str] = []
        if path and label in drawn:
            branches = _branches(drawn[label], path, axis, stride)
        dos = properties.dos / (1.05 * densest or 1.0) * _DOS_WIDE
        yield BandLine(
            label=label,
            style="dft" if index < 0 else line_class(index),
            colour="" if index < 0 else colour(index),
            branches=branches,
            dos=_path(dos.round(), axis.place(properties.dos_frequencies)),
        )


def _branches(
    bands: BandStructure, path: BandStructure, axis: _Axis, stride: int
) -> list[str]:
    """One path per branch, with a part for each segment."""
    branches: list[str] = [""] * bands.frequencies[0].shape[1]
    for x, frequencies in zip(
        _places(path, bands), map(axis.place, bands.frequencies), strict=True
    ):
        kept = np.unique(np.append(np.arange(0, len(x), stride), len(x) - 1))
        for branch in range(len(branches)):
            branches[branch] += _path(x[kept], frequencies[kept, branch])
    return branches


def _places(path: BandStructure, bands: BandStructure) -> list[np.ndarray]:
    """Where the q-points of each segment stand."""
    first, last = path.distances[0][0], path.distances[-1][-1]
    scale = _WIDE / ((last - first) or 1.0)
    return [((x - first) * scale).round() for x in positions_along(path, bands)]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """An absolute move and relative lines; what is not finite interrupts it."""
    places = np.stack([x, y], axis=1)
    finite = np.isfinite(places).all(axis=1)
    parts = []
    for part in np.split(np.arange(len(x)), np.flatnonzero(~finite)):
        good = part[finite[part]]
        if len(good) < 2:
            continue
        start = places[good[0]].astype(int)
        steps = np.diff(places[good], axis=0).astype(int)
        text = " ".join(f"{a} {b}" for a, b in steps.tolist()).replace(" -", "-")
        parts.append(f"M{start[0]} {start[1]}l{text}")
    return "".join(parts)


def _segments(path: BandStructure) -> list[Segment]:
    return [
        Segment(int(x[0]), int(x[-1]), as_unicode(start), as_unicode(end))
        for x, (start, end) in zip(_places(path, path), path.labels, strict=True)
    ]


def _ticks(path: BandStructure) -> list[tuple[int, int, str]]:
    """Labels of the path; one that would overlap its neighbour stands lower."""
    positions, texts = path_ticks(path)
    first, scale = positions[0], _WIDE / ((positions[-1] - positions[0]) or 1.0)
    ends: list[float] = []
    ticks = []
    for position, text in zip(positions, map(as_unicode, texts), strict=True):
        x = (position - first) * scale
        half = _LETTER * len(text) / 2
        row = next((n for n, end in enumerate(ends) if x - half > end), len(ends))
        ends[row : row + 1] = [x + half + _LETTER / 2]
        ticks.append((round(x), row, text))
    return ticks


_GREEK: Final = {
    **{"Gamma": "Γ", "Delta": "Δ", "Lambda": "Λ", "Sigma": "Σ"},
    **{"Xi": "Ξ", "Pi": "Π", "Omega": "Ω", "Phi": "Φ", "Psi": "Ψ", "Theta": "Θ"},
}


def as_unicode(label: str) -> str:
    """Label of a point of the path as plain text, of one that is matplotlib text."""
    label = re.sub(r"\\(?:mathrm|mathsf|mathbf|rm|text)\b", "", label)
    label = re.sub(r"\\([A-Z][a-z]+)", lambda m: _GREEK.get(m[1], m[1]), label)
    label = re.sub(r"_\{?(\d+)\}?", lambda m: m[1].translate(_SUBSCRIPTS), label)
    return re.sub(r"[${}\\]", "", label)


_SUBSCRIPTS: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
