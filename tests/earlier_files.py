"""Files of an earlier version, unpacked, and commands run among them."""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
from commands import run_command
from earlier.measuring import measure_file


DATA = Path(__file__).parent / "earlier"

# Sums in another order than the earlier version's; models compute in float64.
ROUNDING = 1e-10
# Some steps of an optimiser, which divides by the size of gradients, amplify it.
AFTER_STEPS = 1e-7


def unpack(name: str, folder: Path) -> Path:
    """What the earlier version wrote with a backend, with the data beside it."""
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    folder = folder / name
    shutil.copytree(DATA / "phonons", folder / "phonons")
    shutil.copy(DATA / "frames.xyz", folder)
    return folder


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run a command in the folder, to a good end; give what it printed."""
    done = run_command(name, *arguments, cwd=folder, merged=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_predicts(
    path: Path, name: str, what: str, tolerance: float = ROUNDING
) -> None:
    """The potential of a file has the numbers that the earlier version computed."""
    expected = json.loads((DATA / f"{name}.json").read_text())[what]
    for quantity, found in measure_file(path).items():
        wanted = np.array(expected[quantity])
        error = np.abs(np.array(found) - wanted).max() / np.abs(wanted).max()
        assert error < tolerance, (quantity, error)


def check_potentials(folder: Path, name: str, suffix: str) -> None:
    for what in ("base", "ema"):
        assert_predicts(folder / f"{what}{suffix}", name, what)


def check_export_of_the_run(
    folder: Path, name: str, suffix: str, weights: str = "ema"
) -> None:
    """Weights of the last checkpoint in the folder that the earlier version left."""
    out = f"again_{weights}{suffix}"
    which = ("checkpoint=last", f"weights={weights}")
    run("pft-export", folder, "run=run", *which, f"out={out}")
    assert_predicts(folder / out, name, weights)


def check_goes_on(folder: Path, name: str, suffix: str) -> None:
    """The run's own command, for two more steps, ends where the earlier one did."""
    command = (folder / "run" / "command.txt").read_text().splitlines()[-1]
    longer = ("resume=true", "trainer.max_steps=6")
    run(*shlex.split(command)[:1], folder, *shlex.split(command)[1:], *longer)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 6
    out = f"longer{suffix}"
    which = ("checkpoint=last", "weights=raw")
    run("pft-export", folder, "run=run", *which, f"out={out}")
    assert_predicts(folder / out, name, "longer", AFTER_STEPS)
