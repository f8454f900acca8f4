from __future__ import annotations

import ast
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[2] / "pft_lightning"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_no_file_is_longer_than_400_lines():
    lengths = {path: path.read_text().count("\n") for path in SOURCES}
    long = {str(path.relative_to(PACKAGE)): n for path, n in lengths.items() if n > 400}
    assert not long
    assert len(lengths) > 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_function_is_longer_than_60_lines(path):
    tree = ast.parse(path.read_text())
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    lengths = [(f.name, (f.end_lineno or 0) - f.lineno + 1) for f in functions]
    assert not [(name, n) for name, n in lengths if n > 60]
