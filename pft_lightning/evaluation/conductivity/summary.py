"""The content of ``metrics.json`` of an evaluation of conductivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import numpy as np

from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.conductivity.reference import References
from pft_lightning.evaluation.conductivity.rows import COLUMNS, transport_of
from pft_lightning.evaluation.conductivity.score import Conductivity
from pft_lightning.evaluation.conductivity.totals import (
    COMPUTED,
    OUTCOME,
    REASON,
    REFERENCE_NAME,
    SRME,
    summarise,
)
from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MODEL,
    NAME,
    SECONDS,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.summary import make_summary


# Materials of each model whose spectra are kept: those of the largest SRME.
_N_WORST: Final = 3

# Bins of a spectrum, up to the highest frequency of both.
_N_BINS: Final = 60


class Spectrum(TypedDict):
    """Conductivity of a crystal by frequency, of models and of DFT.

    The sum over the bins times their width is the conductivity.

    Attributes:
        name: of the material.
        formula: of the crystal.
        srme: of the model that it is among the worst of.
        frequencies: centres of the bins, THz.
        models: (n_bins,), W/m/K/THz, of every model that has a conductivity of it.
        reference: the same of DFT.
    """

    name: str
    formula: str
    srme: float
    frequencies: list[float]
    models: dict[str, list[float]]
    reference: list[float]


class ConductivitySummary(Summary):
    """Content of ``metrics.json``; ``models`` as of ``totals.summarise``.

    Attributes:
        materials: rows of all materials and models, without what is empty.
        worst: spectra of the worst materials that were computed, by model.
    """

    materials: list[Row]
    worst: dict[str, list[Spectrum]]


def summarise_conductivity(
    rows: list[Row],
    labels: list[str],
    records: list[Record],
    protocol: ConductivityProtocol,
    references: References | None,
    folder: EvaluationFolder,
    noted: Mapping[str, Any] | None,
) -> ConductivitySummary:
    """Sum up an evaluation.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
        protocol: that was followed.
        references: of DFT; None where nothing is compared.
        folder: where the conductivities are kept.
        noted: what else the summary holds.
    """
    summary = make_summary(
        rows, labels, records, protocol, noted, totals=_totals, reason=_reason
    )
    of_label = {label: [row for row in rows if row[MODEL] == label] for label in labels}
    return {
        **summary,  # type: ignore[typeddict-item]
        "materials": [_shorten(row) for row in rows],
        "worst": {
            label: _worst(of_model, rows, references, folder)
            for label, of_model in of_label.items()
        },
    }


def _totals(rows: Sequence[Row]) -> dict[str, Any]:
    seconds = sum(row.get(SECONDS) or 0.0 for row in rows)
    return {**summarise(rows), SECONDS: seconds}


def _reason(row: Row) -> str | None:
    reason = row.get(REASON)
    return f"{row[OUTCOME]}: {reason}" if reason else None


def _shorten(row: Row) -> Row:
    known = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    known.pop(ERROR, None)  # is its reason, too
    return known


def _worst(
    of_model: Sequence[Row],
    rows: Sequence[Row],
    references: References | None,
    folder: EvaluationFolder,
) -> list[Spectrum]:
    """Spectra of the materials with the largest errors, of those with any.

    Args:
        of_model: rows of the model whose errors count.
        rows: of all models.
        references: of DFT.
        folder: where the conductivities are kept.
    """
    scored = [
        row for row in of_model if _is_computed(row) and row.get(SRME) is not None
    ]
    scored.sort(key=lambda row: float(row[SRME]), reverse=True)
    found: list[Spectrum] = []
    for row in scored:
        if references is None or len(found) == _N_WORST:
            break
        models = _conductivities(row[NAME], rows, folder)
        if row[MODEL] in models:
            reference = references[row[REFERENCE_NAME]].conductivity
            found.append(_spectrum(row, models, reference))
    return found


def _is_computed(row: Row) -> bool:
    return bool(row[OUTCOME] == COMPUTED)


def _conductivities(
    name: str, rows: Sequence[Row], folder: EvaluationFolder
) -> dict[str, Conductivity]:
    """Conductivities of a material by model, of those that came to one."""
    found = {row[MODEL]: transport_of(row, folder) for row in rows if row[NAME] == name}
    return {
        label: transport.conductivity
        for label, transport in found.items()
        if transport is not None and np.isfinite(transport.conductivity.modes).all()
    }


def _spectrum(
    row: Row, models: Mapping[str, Conductivity], reference: Conductivity
) -> Spectrum:
    every = (*models.values(), reference)
    highest = max(one.frequencies.max() for one in every)
    edges = np.linspace(0.0, highest * (1 + 1e-9), _N_BINS + 1)

    def histogram(one: Conductivity) -> list[float]:
        # Acoustic modes at Γ may lie a rounding below zero.
        frequencies = np.maximum(one.frequencies, 0.0)
        contributions = one.modes / one.weights.sum()
        density, _ = np.histogram(frequencies, edges, weights=contributions)
        return list(map(float, density / np.diff(edges)))

    return {
        "name": row[NAME],
        "formula": row[FORMULA],
        "srme": row[SRME],
        "frequencies": list(map(float, (edges[1:] + edges[:-1]) / 2)),
        "models": {label: histogram(one) for label, one in models.items()},
        "reference": histogram(reference),
    }
