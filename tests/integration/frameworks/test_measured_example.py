from __future__ import annotations

import csv
import json
import shlex
from importlib.resources import files
from pathlib import Path
from statistics import mean

import pytest
from commands import own_cache, run_command


pytest.importorskip("mace", reason="the example's base model is a MACE model")


def test_the_example_of_measured_values_lowers_their_errors(tmp_path):
    """Twenty of its steps; no force constants are trained on.

    The command that it ends with says the same of all values.
    """
    environment = own_cache(tmp_path / "cache")
    result = run_command(
        "pft-train",
        "experiment=measured",
        "trainer.max_steps=20",
        "+trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
        cwd=tmp_path,
        environment=environment,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # Silicon at three q-points, diamond at one.
    assert summary["counts"]["measured_train"] == 4
    errors = summary["measured/frequencies_mae"]
    assert errors["after"] < 0.8 * errors["before"]
    assert (tmp_path / "run" / "model.model").is_file()

    output = (result.stdout + result.stderr).splitlines()
    (line,) = (text for text in output if "task=measured" in text)
    evaluation = run_command(
        *shlex.split(line), "hydra.run.dir=seen", cwd=tmp_path, environment=environment
    )
    assert evaluation.returncode == 0, evaluation.stderr
    assert (tmp_path / "seen" / "report.html").is_file()
    # A training computes in single precision, which leaves 1e-5 of a frequency.
    for label, when in (("base", "before"), ("model", "after")):
        found = mean_of_q_points(tmp_path / "seen" / "values.csv", label)
        assert found == pytest.approx(errors[when], rel=1e-4)


def mean_of_q_points(values: Path, label: str) -> float:
    """Mean over q-points of the mean error over modes, as a training counts them."""
    table = files("pft_lightning") / "example" / "measured" / "frequencies.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    modes = {}
    for row in rows:
        q_point = ",".join(row[f"q{axis}"] for axis in (1, 2, 3))
        place = row["structure"], q_point, row["branch"]
        modes[place] = int(row["degeneracy"])
    errors: dict[tuple[str, str], list[float]] = {}
    with values.open(newline="") as file:
        for row in csv.DictReader(file):
            of_q_point = errors.setdefault((row["name"], row["q_point"]), [])
            degeneracy = modes[row["name"], row["q_point"], row["branch"]]
            of_q_point += degeneracy * [abs(float(row[f"difference_{label}"]))]
    return mean(mean(one) for one in errors.values())
