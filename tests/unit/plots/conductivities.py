"""A folder as pft-evaluate task=conductivity keeps it, of modes that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase.build import bulk

from pft_lightning.evaluation.conductivity.adapter import Transport
from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.conductivity.reference import (
    ReferenceCrystal,
    References,
)
from pft_lightning.evaluation.conductivity.relaxation import RelaxedCrystal
from pft_lightning.evaluation.conductivity.rows import (
    COLUMNS,
    columns_of,
    failed_scores,
    scores,
)
from pft_lightning.evaluation.conductivity.score import Conductivity
from pft_lightning.evaluation.conductivity.stages import Outcome
from pft_lightning.evaluation.conductivity.summary import summarise_conductivity
from pft_lightning.evaluation.folder import EvaluationFolder, Row


WEIGHTS = np.array([1.0, 6.0, 8.0])
Q_POINTS = np.array([[0, 0, 0], [0.25, 0, 0], [0.25, 0.25, 0.5]])
FORMULAS = {
    **{"mp-1": "MgO", "mp-2": "SiC", "mp-3": "GaAs", "mp-4": "AlN", "mp-5": "LiF"},
    **{"mp-6": "KCl"},
}


def dft(name: str) -> Conductivity:
    """Six bands on three q-points; an acoustic mode is a rounding below zero."""
    rng = np.random.default_rng(int(name.removeprefix("mp-")))
    modes = rng.random((3, 6)) * WEIGHTS[:, None] * 10
    frequencies = np.sort(rng.random((3, 6)) * 8 + 1, axis=1)
    frequencies[0, :3] = (-1e-4, 0, 0)
    kappa = float(modes.sum() / WEIGHTS.sum())
    return Conductivity(300.0, kappa, modes, WEIGHTS, Q_POINTS, frequencies)


def scaled(one: Conductivity, factor: float) -> Conductivity:
    """The same with all modes conducting this many times as much, a bit stiffer."""
    return dataclasses.replace(
        one,
        kappa=factor * one.kappa,
        modes=factor * one.modes,
        frequencies=1.05 * one.frequencies,
    )


def write_conductivities(
    path: Path, models: Mapping[str, Mapping[str, float | str]], known: set[str]
) -> Path:
    """Write the folder of an evaluation.

    Args:
        path: of the folder.
        models: by label and material the conductivity over that of DFT; or
            ``imaginary``, or another reason for which it failed.
        known: materials that are in the reference; empty is no reference.
    """
    folder = EvaluationFolder(path)
    references = References(
        {
            name: ReferenceCrystal(name, formula, 225, (4, 4, 4), dft(name))
            for name, formula in FORMULAS.items()
            if name in known
        }
    )
    rows = [
        _row(folder, name, label, found[name], references.get(name))
        for name in next(iter(models.values()))
        for label, found in models.items()
    ]
    records = [
        {"name": name, "source": name, "status": "ok"}
        for name in {r["name"] for r in rows}
    ]
    summary = summarise_conductivity(
        rows,
        list(models),
        records,  # type: ignore[arg-type]
        ConductivityProtocol(name="test"),
        references or None,
        folder,
        {"phono3py": "4.10.0"},
    )
    folder.write_totals(rows, summary, COLUMNS)
    return path


def _row(
    folder: EvaluationFolder,
    name: str,
    label: str,
    what: float | str,
    reference: ReferenceCrystal | None,
) -> Row:
    kind = "rocksalt" if name in ("mp-1", "mp-5", "mp-6") else "zincblende"
    row: Row = {
        **{"name": name, "formula": FORMULAS[name], "model": label},
        **{"structure_type": kind, "n_atoms": 2, "seconds": 1.0},
        "reference_name": "" if reference is None else reference.name,
    }
    relaxed = RelaxedCrystal(bulk("MgO", "rocksalt", 4.2), 3, True, (225, 225), 1.0)
    if what == "imaginary":
        outcome = Outcome(what, "1 imaginary frequencies", relaxed, (-1.0, 9.0))
    elif isinstance(what, str):
        return {**row, "status": "failed", "error": what} | failed_scores(
            reference, what
        )
    else:
        found = scaled(dft(name), what)
        part = np.array([found.kappa] * 3 + [0.0] * 3)
        transport = Transport(found, 0.9 * part, 0.1 * part, np.ones((3, 6)))
        _keep(folder.model_folder(name, label) / "kappa.npz", transport)
        outcome = Outcome(
            "computed", "", relaxed, (0.0, 9.0), transport=transport, key="a"
        )
    kept = {**row, "status": "ok", "error": ""}
    return {**kept, **columns_of(outcome), **scores(outcome, reference)}


def _keep(path: Path, transport: Transport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = transport.conductivity
    arrays = {field: getattr(found, field) for field in found.__slots__}
    parts = ("particle", "coherence", "heat_capacities")
    np.savez(
        path, key="a", **arrays, **{field: getattr(transport, field) for field in parts}
    )
