"""``pft-evaluate task=elastic`` as a user runs it, on one process and on two."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from commands import run_command

from pft_lightning.testing import PairPotential


@pytest.mark.slow
def test_two_processes_share_the_crystals_and_agree_with_one(tmp_path):
    for label, cutoff in (("short", 3.5), ("long", 4.0)):
        PairPotential(cutoff, (29,)).save(tmp_path / f"{label}.pair")
    folder = tmp_path / "crystals"
    folder.mkdir()
    for name, a in (("a", 3.3), ("b", 3.4), ("c", 3.5)):
        ase.io.write(folder / f"{name}.cif", bulk("Cu", "fcc", a=a))
    (folder / "broken.cif").write_text("data_none")
    summaries = []
    for n_processes in (1, 2):
        done = run_command(
            "pft-evaluate",
            *("task=elastic", "structures=crystals", "model.checkpoint=long.pair"),
            *("compare.short.checkpoint=short.pair", "protocol=dft_cell"),
            *("accelerator=cpu", f"hydra.run.dir=run{n_processes}"),
            f"devices={n_processes}",
            cwd=tmp_path,
            n_processes=n_processes,
        )
        assert done.returncode == 0, done.stderr
        run = Path(tmp_path, f"run{n_processes}")
        names = sorted(file.stem for file in run.glob("materials/*.json"))
        assert names == ["a", "b", "broken", "c"]
        assert (run / "report.html").is_file()
        summaries.append(json.loads((run / "metrics.json").read_text()))
        for model in summaries[-1]["models"].values():
            model.pop("seconds")
    one, two = summaries
    assert one == two
    failed = {"short": 1, "model": 1}
    assert one["counts"] == {"materials": 4, "unreadable": 1, "failed": failed}
