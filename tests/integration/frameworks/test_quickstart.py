from __future__ import annotations

import json

import pytest
from commands import own_cache, run_command


pytest.importorskip("mace", reason="the example's base model is a MACE model")


def test_the_quickstart_runs_offline_from_any_folder(tmp_path):
    """The whole of it takes minutes; a few steps show that everything ships."""
    result = run_command(
        "pft-train",
        "experiment=quickstart",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "+trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
        cwd=tmp_path,
        environment=own_cache(tmp_path / "cache"),
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["counts"] == {
        "phonon_train": 11, "upstream_train": 70, "phonon_val": 4, "upstream_val": 13,
    }  # fmt: skip
    assert "phonon/hvp_mae" in result.stdout
    # Nothing of libraries comes before what the command itself says.
    for text in ("Warning", "Tip:", "uequivariance"):
        assert text not in result.stdout + result.stderr
    assert (tmp_path / "run" / "model.model").is_file()
