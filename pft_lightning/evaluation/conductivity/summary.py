"""The content of ``metrics.json`` of an evaluation of conductivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

import numpy as np

from pft_lightning.evaluation.conductivity.protocol import (
    ConductivityProtocol,
    describe,
)
from pft_lightning.evaluation.conductivity.reference import References
from pft_lightning.evaluation.conductivity.rows import COLUMNS
from pft_lightning.evaluation.conductivity.score import Conductivity
from pft_lightning.evaluation.conductivity.stages import read_transport
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
    OK,
    SECONDS,
    STATUS,
    EvaluationFolder,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.summary import count_failures


# Materials of each model whose spectra are kept: those of the largest SRME.
_N_WORST: Final = 3

# Bins of a spectrum, up to the highest frequency of both.
_N_BINS: Final = 60


class Spectrum(TypedDict):
    """Conductivity of a crystal by frequency, of a model and of DFT.

    Attributes:
        name: of the material.
        formula: of the crystal.
        srme: of the model.
        frequencies: centres of the bins, THz.
        model: (n_bins,), W/m/K/THz.
        reference: the same of DFT.
    """

    name: str
    formula: str
    srme: float
    frequencies: list[float]
    model: list[float]
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
    versions: Mapping[str, str] | None,
) -> ConductivitySummary:
    """Sum up an evaluation.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
        protocol: that was followed.
        references: of DFT; None where nothing is compared.
        folder: where the conductivities are kept.
        versions: of libraries.
    """
    counts, failures = count_failures(rows, labels, records)
    failures += [
        {"name": row[NAME], "model": row[MODEL], "error": f"{row[OUTCOME]}: {reason}"}
        for row in rows
        if row[STATUS] == OK and (reason := row.get(REASON))
    ]
    by_label = {label: [row for row in rows if row[MODEL] == label] for label in labels}
    return {
        "protocol": describe(protocol),
        "versions": dict(versions or {}),
        "counts": counts,
        "models": {
            label: {
                **summarise(of_model),
                SECONDS: sum(row.get(SECONDS) or 0.0 for row in of_model),
            }
            for label, of_model in by_label.items()
        },
        "forgetting": {},
        "failures": failures,
        "materials": [_shorten(row) for row in rows],
        "worst": {
            label: _worst(of_model, references, folder)
            for label, of_model in by_label.items()
        },
    }


def _shorten(row: Row) -> Row:
    known = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    known.pop(ERROR, None)  # is its reason, too
    return known


def _worst(
    rows: Sequence[Row], references: References | None, folder: EvaluationFolder
) -> list[Spectrum]:
    """Spectra of the materials with the largest errors, of those with any."""
    scored = [
        row
        for row in rows
        if row[OUTCOME] == COMPUTED and row.get(SRME) is not None and references
    ]
    scored.sort(key=lambda row: float(row[SRME]), reverse=True)
    found = []
    for row in scored[:_N_WORST]:
        transport = read_transport(folder.model_folder(row[NAME], row[MODEL]))
        if transport is None or references is None:
            continue
        reference = references[row[REFERENCE_NAME]].conductivity
        found.append(_spectrum(row, transport.conductivity, reference))
    return found


def _spectrum(row: Row, model: Conductivity, reference: Conductivity) -> Spectrum:
    highest = max(model.frequencies.max(), reference.frequencies.max())
    edges = np.linspace(0.0, highest * (1 + 1e-9), _N_BINS + 1)

    def histogram(one: Conductivity) -> list[float]:
        density, _ = np.histogram(
            one.frequencies, edges, weights=one.modes / one.weights.sum()
        )
        return list(map(float, density / np.diff(edges)))

    return {
        "name": row[NAME],
        "formula": row[FORMULA],
        "srme": row[SRME],
        "frequencies": list(map(float, (edges[1:] + edges[:-1]) / 2)),
        "model": histogram(model),
        "reference": histogram(reference),
    }
