from __future__ import annotations

import json

import pytest
from commands import own_cache, run_command


pytest.importorskip("mace", reason="the example's base model is a MACE model")


def test_the_example_of_measured_values_lowers_their_errors(tmp_path):
    """Twenty of its steps; no force constants are trained on."""
    result = run_command(
        "pft-train",
        "experiment=measured",
        "trainer.max_steps=20",
        "+trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
        cwd=tmp_path,
        environment=own_cache(tmp_path / "cache"),
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # Silicon at three q-points, diamond at one.
    assert summary["counts"]["measured_train"] == 4
    errors = summary["measured/frequencies_mae"]
    assert errors["after"] < 0.8 * errors["before"]
    assert (tmp_path / "run" / "model.model").is_file()
