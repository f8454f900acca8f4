from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    path
    for path in BENCHMARKS.glob("*/*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)

# One process tries them all: importing torch and Lightning takes longest.
TRY_ALL = """
import contextlib, io, runpy, sys
before = list(sys.path)
for script in sys.argv[1:]:
    sys.argv, sys.path = [script, "--help"], [script.rpartition("/")[0], *before]
    known = set(sys.modules)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(script, run_name="__main__")
        outcome = "no --help"
    except SystemExit as stop:
        outcome = "ok" if not stop.code else str(stop.code)
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    print(outcome, script, flush=True)
    # Scripts of two folders may have helpers of one name.
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(sys.path[0]):
            del sys.modules[name]
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    command = [sys.executable, "-c", TRY_ALL, *map(str, SCRIPTS)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert run.returncode == 0, run.stderr
    lines = (line.rpartition(" ") for line in run.stdout.splitlines())
    return {script: outcome for outcome, _, script in lines}


def test_there_are_benchmarks():
    assert len(SCRIPTS) > 15


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(BENCHMARKS)))
def test_every_benchmark_imports_and_shows_its_help(outcomes, path):
    outcome = outcomes[str(path)]
    for framework in ("mace", "nequip", "gpaw"):
        if outcome == f"ModuleNotFoundError: No module named '{framework}'":
            pytest.skip(f"{framework} is not installed here")
    assert outcome == "ok"
