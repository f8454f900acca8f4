"""What the reports of all evaluations share: one HTML page that needs nothing else.

The figures of a report lie in ``figures/`` of its evaluation, too; those of an earlier
report that are not made again are removed, so that none is taken for one of this.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.conductivity import rows, totals
from pft_lightning.evaluation.folder import EvaluationFolder, reference_of
from pft_lightning.files import replacing, write_atomically
from pft_lightning.plots.band_svg import BandDrawing
from pft_lightning.plots.finished import FinishedEvaluation, number
from pft_lightning.plots.style import OMEGA_AVG, OMEGA_MAX, OMEGA_MIN, QUANTITIES
from pft_lightning.plots.words import KINDS, Statement, count_materials, in_order


_COLUMN_NAMES: Final = {
    schema.N_ATOMS: "atoms",
    schema.MIN_FREQUENCY: "lowest frequency (THz)",
    reference_of(schema.MIN_FREQUENCY): "DFT lowest frequency (THz)",
    schema.RELAX_STEPS: "relaxation steps",
    schema.N_PRODUCTS: "Hessian-vector products",
    schema.SECONDS: "time (s)",
    **{name: name.upper() for name in (totals.SRME, totals.SRE, totals.SRD)},
    totals.KAPPA: "κ (W/m/K)",
    totals.REFERENCE_KAPPA: "DFT κ (W/m/K)",
    rows.PARTICLE: "κ of particles (W/m/K)",
    rows.COHERENCE: "κ of coherence (W/m/K)",
}
_DPI: Final = 130
# A page is sent by mail: figures get what 5 MB leave beside the rows of its table.
_LARGEST_PAGE: Final = 4_800_000
_ROW_BYTES: Final = 500
_MOST_ROWS: Final = 5000
# What reports call their figures; other files beside them are somebody else's.
_NAMES: Final = re.compile(
    r"gain_and_forgetting|trade_off|parity|error_histograms|softening|force_constants|"
    r"material_\d+_.*_(bands|thermal|wells|expansion|measured)|kappa_parity|srme|kappa_spectra|"
    r"moduli_parity|moduli_errors|measured_frequencies|third_order_errors|third_order_parity"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of a page.

    Attributes:
        name: of its file, without the ending.
        caption: below it; may be empty.
        data: PNG in base 64; empty where the page has no room for it.
        bands: drawn in its place.
    """

    name: str
    caption: str
    data: str
    bands: BandDrawing | None = None


@dataclass(slots=True)
class Pictures:
    """Writes figures to a folder and keeps them for the page.

    Attributes:
        folder: of the figures; it exists.
        n_rows: of the table beside which the figures must have room.
        made: figures by name.
    """

    folder: Path
    n_rows: int = 0
    made: dict[str, Picture] = field(default_factory=dict)
    _size: int = 0

    def add(
        self, name: str, figure: Figure, caption: str, bands: BandDrawing | None = None
    ) -> Picture:
        """Write a figure.

        Args:
            name: of its file, without the ending.
            figure: that is written.
            caption: below it.
            bands: what the page shows in place of the file.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        assert _NAMES.fullmatch(name), name
        path = self.folder / f"{name}.png"
        with replacing(path) as partial:
            figure.savefig(partial, dpi=_DPI)
        data = "" if bands else base64.b64encode(path.read_bytes()).decode()
        size = bands.size if bands else len(data)
        room = _LARGEST_PAGE - _ROW_BYTES * min(self.n_rows, _MOST_ROWS)
        if self._size + size > room:
            data, bands, size = "", None, 0
        self._size += size
        self.made[name] = Picture(name, caption, data, bands)
        return self.made[name]


def write_page(
    template: str,
    evaluation: FinishedEvaluation,
    pictures: Pictures,
    *,
    heading: str,
    words: Sequence[Statement],
    anchors: Mapping[str, str] | None = None,
    damaged: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    **content: Any,
) -> Path:
    """Write the page of an evaluation, and remove figures of its earlier pages.

    Args:
        template: of this folder, an extension of ``page.html.jinja``.
        evaluation: that is shown.
        pictures: all that the page shows.
        heading: what kind of evaluation it is.
        words: the summary.
        anchors: of materials with figures, in the page.
        damaged: errors of files that cannot be read, by material.
        names: of columns, with units, that only this kind of evaluation has.
        content: what else the template shows.

    Returns:
        The page.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    folder, summary = evaluation.folder, evaluation.summary
    environment = _environment(names or {})
    environment.filters["material"] = partial(
        _material, anchors=anchors or {}, records=_files_in(folder.materials)
    )
    failures = _failures(summary["failures"])
    page = environment.get_template(template).render(
        heading=heading,
        title=folder.path.resolve().name,
        metrics=summary,
        counts=summary["counts"],
        protocol=summary["protocol"],
        schema=schema,
        labels=evaluation.labels,
        pictures=pictures.made,
        failures=failures[:_MOST_ROWS],
        failures_left_out=len(failures[_MOST_ROWS:]),
        words=in_order(words),
        kinds=KINDS,
        style=_part("page.css"),
        script=_part("page.js"),
        damaged=damaged or {},
        command=_read_text(folder.command_file),
        **content,
    )
    path = folder.report_file
    write_atomically(path, lambda file: file.write(page.encode()))
    _remove_figures(folder, keep=pictures.made)
    return path


def remove_report(path: str | Path) -> None:
    """Remove the report of an earlier evaluation from a folder that gets no new one.

    Args:
        path: of the folder.
    """
    folder = EvaluationFolder(path)
    folder.report_file.unlink(missing_ok=True)
    _remove_figures(folder, keep=())


def _remove_figures(folder: EvaluationFolder, keep: Collection[str]) -> None:
    for figure in folder.figures.glob("*.png"):
        if figure.stem not in keep and _NAMES.fullmatch(figure.stem):
            figure.unlink(missing_ok=True)


def _failures(failures: Sequence[schema.Failure]) -> list[dict[str, Any]]:
    return [
        {
            "name": failure.get("name", ""),
            "model": failure.get("model") or "all",
            "error": failure.get("error", ""),
        }
        for failure in failures
    ]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _environment(names: Mapping[str, str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pft_lightning.plots", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        short=_short,
        percent=_percent,
        quantity=partial(_quantity, names={**_COLUMN_NAMES, **names}),
        named=partial(_quantity, names={**_COLUMN_NAMES, **names}, with_unit=False),
        number=number,
        digest=_digest,
        materials=count_materials,
    )
    environment.globals["most_rows"] = _MOST_ROWS
    return environment


def _part(name: str) -> Markup:
    """Style or script of all pages: text of the package, in which no data stand."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    """What a page says of its style and script, so that no other is obeyed."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _files_in(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _material(
    name: str | None, anchors: Mapping[str, str], records: Collection[str]
) -> Markup:
    """Name of a material as a link to its figures in the page, or to its record."""
    name = name or ""
    if name in anchors:
        href = f"#{anchors[name]}"
    elif f"{name}.json" in records:
        href = f"materials/{quote(name, safe='')}.json"
    else:
        return Markup.escape(name)
    return Markup('<a href="{}">{}</a>').format(href, name)


def _short(value: Any) -> str:
    """Four significant digits; text as it is, nothing for what is unknown."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.0%}".replace("-", "−")


def _quantity(name: str, names: Mapping[str, str], with_unit: bool = True) -> Markup:
    """Name of a column, with its unit or without, as HTML."""
    if name not in QUANTITIES:
        text = names.get(name, name.replace("_", " "))
        return Markup.escape(text if with_unit else _UNIT_AFTER.sub("", text))
    text, unit = QUANTITIES[name]
    html = Markup.escape(f"{text} ({unit})" if unit and with_unit else text)
    for formula, written in _FORMULAS.items():
        html = html.replace(formula, written)
    return html


_UNIT_AFTER: Final = re.compile(r" \([^()]*\)$")

# The formulas of QUANTITIES, which are the project's own and hold nothing to escape.
_FORMULAS: Final = {
    OMEGA_MAX: Markup("<i>ω</i><sub>max</sub>"),
    OMEGA_AVG: Markup("<i>ω</i><sub>avg</sub>"),
    OMEGA_MIN: Markup("<i>ω</i><sub>min</sub>"),
    "$C_V(T)$": Markup("<i>C<sub>V</sub></i>(<i>T</i>)"),
    "$S(T)$": Markup("<i>S</i>(<i>T</i>)"),
    "$F(T)$": Markup("<i>F</i>(<i>T</i>)"),
    "$C_V$": Markup("<i>C<sub>V</sub></i>"),
    "$S$": Markup("<i>S</i>"),
    "$F$": Markup("<i>F</i>"),
    "$W_1$": Markup("<i>W</i><sub>1</sub>"),
}
