"""Modes of a crystal that does not exist, and tables of them as others write them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pft_lightning.evaluation.conductivity.score import Conductivity


# Threads that wait for each other on a busy machine are slower than one.
os.environ.setdefault("RAYON_NUM_THREADS", "1")


@pytest.fixture
def modes() -> Conductivity:
    """Three q-points that stand for 1, 27 and 36 of a mesh, six bands."""
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 27.0, 36.0])
    contributions = rng.random((3, 6)) * weights[:, None] * 10
    frequencies = np.sort(rng.random((3, 6)) * 8 + 1, axis=1)
    frequencies[0, :3] = 0
    return Conductivity(
        temperature=300.0,
        kappa=float(contributions.sum() / weights.sum()),
        modes=contributions,
        weights=weights,
        q_points=np.array([[0, 0, 0], [0.25, 0, 0], [0.25, 0.25, 0.5]]),
        frequencies=frequencies,
    )


def row_of(found: Conductivity, name: str = "mp-1", formula: str = "MgO") -> dict:
    """A row of the reference of phononDB."""
    return {
        "mp_id": name,
        "name": formula,
        "symm.no": 225,
        "q_mesh": [4, 4, 4],
        "temperatures": [found.temperature],
        "kappa_TOT_ave": [found.kappa],
        "mode_kappa_TOT_ave": [found.modes.tolist()],
        "weights": found.weights.tolist(),
        "qpoints": found.q_points.tolist(),
        "frequencies": found.frequencies.tolist(),
    }


@pytest.fixture
def write_table(tmp_path) -> Callable[..., Path]:
    """Write rows as pandas does, column by column, packed."""

    def write(*rows: dict, name: str = "reference.json.gz") -> Path:
        columns = dict.fromkeys(key for row in rows for key in row)
        table = {
            column: {str(i): row[column] for i, row in enumerate(rows) if column in row}
            for column in columns
        }
        path = tmp_path / name
        path.write_bytes(gzip.compress(json.dumps(table).encode()))
        return path

    return write
