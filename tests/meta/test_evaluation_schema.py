from __future__ import annotations

import ast
from pathlib import Path

from pft_lightning.evaluation import folder


PACKAGE = Path(folder.__file__).parents[1]
# Readers, writers and tables of evaluation folders.
ROOMS = ("evaluation", "plots", "runs")


def strings_of(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and n.value}


def test_names_of_files_and_columns_are_written_in_one_place():
    written = {
        folder.SUMMARY_FILE,
        folder.ROWS_FILE,
        folder.REPORT_FILE,
        folder.COMMAND_FILE,
        *folder.ERRORS,
        *folder.COST[:-1],
        *folder.FORGETTING,
        folder.FREQUENCY_RATIO,
        folder.MODEL_UNSTABLE,
        folder.REFERENCE_UNSTABLE,
    }
    repeated = {
        str(path.relative_to(PACKAGE)): found
        for room in ROOMS
        for path in (PACKAGE / room).rglob("*.py")
        if path != Path(folder.__file__) and (found := written & strings_of(path))
    }
    assert not repeated


def test_every_error_and_every_value_of_a_figure_has_a_unit():
    assert {*folder.ERRORS, *folder.FORGETTING, *folder.THERMAL} <= folder.UNITS.keys()
