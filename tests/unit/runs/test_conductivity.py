"""``pft-evaluate task=conductivity`` from its configuration on."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.data import third_order
from pft_lightning.errors import BackendUnavailableError, ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.protocol import (
    CONDUCTIVITY_PROTOCOLS,
    ConductivityProtocol,
)
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.testing import PairPotential


def composed(*overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PairPotential(4.0, (8, 11, 12, 17, 29)).save(Path("true.pair"))
    atoms = bulk("MgO", "cesiumchloride", 2.5)
    double = 2 * np.eye(3, dtype=int)
    atoms.info = {
        "mp_id": "mp-1",
        "fc2_supercell": double,
        "fc3_supercell": double,
        "q_mesh": np.array([3, 3, 3]),
    }
    ase.io.write("MgO.extxyz", atoms, format="extxyz")
    Path("cut.cif").write_text("data_\n_cell_length_a 4")

    def start(*overrides: str):
        return evaluate(
            composed(
                *("task=conductivity", "paths.run=run", "accelerator=cpu"),
                *("model.checkpoint=true.pair", "progress=false", *overrides),
            )
        )

    return start


def test_conductivities_are_computed_compared_and_printed(run, capsys, monkeypatch):
    pytest.importorskip("phono3py", "4.10", reason="phono3py 4.10 is not installed")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    common_options = ("protocol=matbench", "protocol.relax=false")
    found = run("structures=[MgO.extxyz,cut.cif]", *common_options)
    check_evaluation(found.summary)
    printed = capsys.readouterr().out
    assert "No score: reference=FILE" in printed
    assert "2 materials; failed: model 1" in printed
    assert "cut: DataFormatError: cut.cif" in printed
    assert "mp-1 MgO (model)" in printed
    assert f"For the leaderboard, model: {found.leaderboard['model']}" in printed
    assert "cut.cif" in Path("run/report.html").read_text()
    assert "task: conductivity" in Path("run/config.yaml").read_text()
    # Its file is a table that others can be compared with.
    Path("dft.json.gz").write_bytes(found.leaderboard["model"].read_bytes())
    with pytest.warns(UserWarning, match="row 1"):
        again = run(
            *("structures=MgO.extxyz", "reference=dft.json.gz", "paths.run=again"),
            *("compare.same.checkpoint=true.pair", *common_options),
        )
    printed = capsys.readouterr().out
    assert "SRME, mode by mode" in printed
    names = {path.name for path in Path("again/figures").glob("*.png")}
    assert names == {"kappa_parity.png", "srme.png", "kappa_spectra.png"}
    assert [row["srme"] for row in again.rows] == [0.0, 0.0]
    stored = json.loads(Path("again/metrics.json").read_text())
    assert list(stored["models"]) == ["same", "model"]
    assert stored["models"]["model"]["srme"] == {"mean": 0.0, "median": 0.0, "n": 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "protocol=dft_cell: task=conductivity takes protocol=matbench or"),
        (("protocol=mdr",), "takes protocol=matbench or protocol=k_srme"),
        (("task=compare", "protocol=matbench"), "takes protocol=dft_cell or"),
        (("protocol=matbench",), "task=conductivity needs structures=PATH"),
        (("protocol=matbench", "structures=a", "phonons=b"), "compares no phonons"),
        (("protocol=matbench", "structures=a", "upstream=b"), "upstream is given"),
        (("protocol=matbench", "protocol.n_stages=3"), "protocol.n_stages=3"),
        (("protocol=matbench", "protocol.cell_mask=[true]"), "six of true and false"),
        (("protocol=matbench", "protocol.transport_type=NJC23"), "SMM19"),
        (
            ("protocol=k_srme", "structures=a", "conductivity.fc2_supercell=[2,2]"),
            "conductivity.fc2_supercell",
        ),
        (
            ("task=compare", "phonons=a", "reference=b"),
            "reference=b: is for task=conductivity",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_sentence(
    run, overrides, message, monkeypatch
):
    monkeypatch.setattr(third_order, "version", lambda name: "4.10.0")
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        run(*overrides)
    assert not Path("run").exists()


def test_nothing_is_written_without_phono3py(run, monkeypatch):
    monkeypatch.setattr(third_order, "version", lambda name: "3.5.0")
    with pytest.raises(BackendUnavailableError, match=r"3\.5\.0 is too old.*\[kappa\]"):
        run("protocol=matbench", "structures=MgO.extxyz")
    assert not Path("run").exists()


def test_a_run_without_a_single_crystal_is_an_error(run):
    pytest.importorskip("phono3py", "4.10", reason="phono3py 4.10 is not installed")
    found = run("protocol=matbench", "structures=cut.cif")
    with pytest.raises(DataFormatError, match=r"none of 1 materials .*cut\.cif"):
        check_evaluation(found.summary)


@pytest.mark.parametrize("name", sorted(CONDUCTIVITY_PROTOCOLS))
def test_the_group_of_protocols_is_that_of_the_package(name):
    values = OmegaConf.to_container(composed(f"protocol={name}").protocol)
    assert ConductivityProtocol(**values) == CONDUCTIVITY_PROTOCOLS[name]
