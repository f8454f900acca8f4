"""An evaluation folder as pft-evaluate writes it, from crystals held by springs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from phonopy import Phonopy
from phonopy.phonon.band_structure import get_band_qpoints

from pft_lightning.evaluation.properties_io import save_properties
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.types import BandStructure, PhononProperties


LABELS = ["base", "fine_tuned"]
# Force constants of each model are those of DFT times this.
SCALES = {"reference": 1.0, "base": 0.7, "fine_tuned": 0.95}
ERRORS = (
    "mesh_frequency_mae",
    "force_constants_mae",
    "max_frequency_error",
    "max_frequency_error_K",
    "entropy_error",
    "free_energy_error",
    "heat_capacity_error",
    "frequency_ratio",
)
VALUES = ("max_frequency", "entropy", "free_energy", "heat_capacity")

# Two segments that share X, and one after a jump from U to K.
_PATH = [
    [[0, 0, 0], [0.5, 0, 0.5]],
    [[0.5, 0, 0.5], [0.625, 0.25, 0.625]],
    [[0.375, 0.375, 0.75], [0, 0, 0]],
]
_CORNERS = [("$\\Gamma$", "X"), ("X", "U"), ("K", "$\\Gamma$")]


def properties_of(phonon: Phonopy, scale: float = 1.0) -> PhononProperties:
    """What phonopy makes of the force constants of a crystal times a number."""
    exact = phonon.force_constants
    phonon.force_constants = scale * exact
    phonon.run_mesh([4, 4, 4], is_gamma_center=True)
    temperatures = np.arange(0.0, 500.0, 100.0)
    phonon.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-3)
    phonon.run_total_dos(sigma=0.1, use_tetrahedron_method=False)
    phonon.run_band_structure(get_band_qpoints(_PATH, npoints=7))
    mesh = phonon.mesh
    _, *thermal = phonon.thermal_properties.thermal_properties
    free_energy, entropy, heat_capacity = map(np.array, thermal)
    found = PhononProperties(
        commensurate_frequencies=np.array(mesh.frequencies),
        commensurate_weights=mesh.weights / mesh.weights.sum(),
        mesh_frequencies=np.array(mesh.frequencies),
        mesh_weights=mesh.weights / mesh.weights.sum(),
        dos_frequencies=np.array(phonon.total_dos.frequency_points),
        dos=np.array(phonon.total_dos.dos),
        temperatures=temperatures,
        free_energy=free_energy,
        entropy=entropy,
        heat_capacity=heat_capacity,
        bands=BandStructure(
            [np.array(d) for d in phonon.band_structure.distances],
            [np.array(f) for f in phonon.band_structure.frequencies],
            list(_CORNERS),
        ),
        force_constants=from_phonopy(phonon)[0].compact,
        non_analytical=False,
    )
    phonon.force_constants = exact
    return found


def row_of(
    name: str, label: str, ours: PhononProperties, theirs: PhononProperties
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "formula": "NaCl",
        "n_atoms": 16,
        "n_primitive": 2,
        "model": label,
        "status": "ok",
        "error": "",
        "mesh_frequency_mae": np.abs(
            ours.mesh_frequencies - theirs.mesh_frequencies
        ).mean(),
        "force_constants_mae": np.abs(
            ours.force_constants - theirs.force_constants
        ).mean(),
        "frequency_ratio": ours.mesh_frequencies.mean()
        / theirs.mesh_frequencies.mean(),
    }
    for prefix, one in (("", ours), ("reference_", theirs)):
        row[f"{prefix}max_frequency"] = one.max_frequency
        row[f"{prefix}min_frequency"] = float(one.mesh_frequencies.min())
        for quantity in VALUES[1:]:
            row[f"{prefix}{quantity}"] = getattr(one, quantity)[3]
    for quantity in VALUES:
        row[f"{quantity}_error"] = abs(row[quantity] - row[f"reference_{quantity}"])
    row["max_frequency_error_K"] = 47.99 * row["max_frequency_error"]
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()}


def failed_row(name: str, label: str, error: str) -> dict[str, Any]:
    return {"name": name, "model": label, "status": "failed", "error": error}


def write_evaluation(
    folder: Path,
    rows: list[dict[str, Any]],
    properties: dict[str, dict[str, PhononProperties]],
    labels: list[str],
    **metrics: Any,
) -> Path:
    totals: dict[str, Any] = {}
    for label in labels:
        done = [r for r in rows if r["model"] == label and r["status"] == "ok"]
        totals[label] = {
            name: {
                "mean": float(np.mean([r[name] for r in done])) if done else None,
                "median": float(np.median([r[name] for r in done])) if done else None,
                "n": len(done),
            }
            for name in ERRORS
        }
    content = {
        "protocol": {"name": "dft_cell", "temperature": 300.0, "mesh": [4, 4, 4]},
        "versions": {"phonopy": "1.2.3"},
        "counts": {"materials": len({r["name"] for r in rows})},
        "models": totals,
        "forgetting": {},
        "failures": [
            {key: r[key] for key in ("name", "model", "error")}
            for r in rows
            if r["status"] == "failed"
        ],
        **metrics,
    }
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    columns = dict.fromkeys(key for row in rows for key in row)
    with (folder / "per_material.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
    for name, found in properties.items():
        save_properties(folder / "materials" / f"{name}.npz", found)
    return folder


@pytest.fixture
def crystal(spring_phonon: Callable[..., Phonopy]) -> Phonopy:
    phonon = spring_phonon()
    phonon.produce_force_constants()
    return phonon


@pytest.fixture
def properties(crystal: Phonopy) -> dict[str, PhononProperties]:
    """Of the reference and of two models, the first much too soft."""
    return {label: properties_of(crystal, s) for label, s in SCALES.items()}


@pytest.fixture
def folder(crystal: Phonopy, tmp_path: Path) -> Path:
    """Four materials, of which one failed for the base model and one for both."""
    rows, arrays = [], {}
    for name, stiffness in (("soft", 0.5), ("middle", 1.0), ("hard", 2.0)):
        found = {
            label: properties_of(crystal, scale * stiffness)
            for label, scale in SCALES.items()
        }
        arrays[name] = found
        for label in LABELS:
            rows.append(row_of(name, label, found[label], found["reference"]))
    rows[4] = failed_row("hard", "base", "RelaxationError: it exploded")
    del arrays["hard"]["base"]
    rows += [failed_row("gone", label, "DataFormatError: no file") for label in LABELS]
    forgetting = {
        "base": {"energy_mae": 0.0123, "forces_mae": 0.0456, "n_structures": 7},
        "fine_tuned": {"energy_mae": 0.0234, "forces_mae": 0.0567, "n_structures": 7},
    }
    for errors in forgetting.values():
        errors["per_element"] = {"Na": {"forces_mae": 0.0789, "n_atoms": 11}}
        errors["per_source"] = {"mptrj": {"forces_mae": 0.0456, "n_structures": 7}}
    return write_evaluation(
        tmp_path / "evaluation", rows, arrays, LABELS, forgetting=forgetting
    )


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Leave the pixels out where a test looks at text: they are what takes time.

    Returns:
        The figures that were to be written, by name.
    """
    figures: dict[str, Figure] = {}

    def write(figure: Figure, path: Path, **_: Any) -> None:
        figures[path.stem] = figure
        path.write_bytes(b"pixels")

    monkeypatch.setattr(Figure, "savefig", write)
    return figures
