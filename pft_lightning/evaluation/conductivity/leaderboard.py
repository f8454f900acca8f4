"""The file that the leaderboard of Matbench Discovery takes: one row per material.

A table in JSON as pandas writes and reads it, packed: a column is an object with the
value of each row by its number. What could not be computed is null, with a reason in
``errors``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pft_lightning.evaluation.conductivity.rows import (
    CONVERGED,
    RELAXED_SPACE_GROUP,
    SPACE_GROUP,
    transport_of,
)
from pft_lightning.evaluation.conductivity.totals import (
    BROKEN,
    FAILED,
    IMAGINARY,
    OUTCOME,
    REASON,
    REFERENCE_NAME,
)
from pft_lightning.evaluation.folder import (
    FORMULA,
    NAME,
    EvaluationFolder,
    Row,
)
from pft_lightning.files import make_folder, write_atomically


def write_leaderboard(
    path: Path, rows: Sequence[Row], folder: EvaluationFolder
) -> None:
    """Write the conductivities of one model.

    Args:
        path: of the file.
        rows: of the model, one per material.
        folder: where its conductivities are kept.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    table: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        for column, value in _columns(row, folder).items():
            table.setdefault(column, {})[str(number)] = value
    text = json.dumps(table, allow_nan=False).encode()
    make_folder(path.parent)
    # Without the time, the same numbers make the same file.
    packed = gzip.compress(text, mtime=0)
    write_atomically(path, lambda file: file.write(packed))


def _columns(row: Row, folder: EvaluationFolder) -> dict[str, Any]:
    known = row.get(SPACE_GROUP)
    columns: dict[str, Any] = {
        "material_id": row.get(REFERENCE_NAME) or row[NAME],
        "formula": row.get(FORMULA),
        "init_spg_num": known,
        "final_spg_num": row.get(RELAXED_SPACE_GROUP, known),
        "broken_symmetry": row[OUTCOME] == BROKEN,
        "has_imag_ph_modes": row[OUTCOME] == IMAGINARY,
        "reached_max_steps": row.get(CONVERGED) is False,
        "errors": [row[REASON]] if row[OUTCOME] == FAILED else [],
        "error_traceback": [],
        **dict.fromkeys(
            (
                *("temperatures", "kappa_tot_rta", "kappa_p_rta", "kappa_c"),
                *("kappa_tot_avg", "mode_kappa_tot_avg", "mode_weights", "q_points"),
                *("ph_freqs", "heat_capacity"),
            )
        ),
    }
    transport = transport_of(row, folder)
    if transport is None:
        return columns
    found = transport.conductivity
    return columns | {
        "temperatures": [found.temperature],
        "kappa_tot_rta": [transport.total.tolist()],
        "kappa_p_rta": [transport.particle.tolist()],
        "kappa_c": [transport.coherence.tolist()],
        "kappa_tot_avg": [found.kappa],
        "mode_kappa_tot_avg": [found.modes.tolist()],
        "mode_weights": found.weights.tolist(),
        "q_points": found.q_points.tolist(),
        "ph_freqs": found.frequencies.tolist(),
        "heat_capacity": [transport.heat_capacities.tolist()],
    }
