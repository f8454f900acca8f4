"""``pft-evaluate task=third_order``: errors against DFT, failures, and going on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module

import pft_lightning as pft
from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.errors import BackendUnavailableError, ConfigError, DivergenceError
from pft_lightning.evaluation import third_order_runner
from pft_lightning.evaluation.third_order_errors import LARGE, compare_third
from pft_lightning.evaluation.third_order_runner import evaluate_third_order
from pft_lightning.physics.third_order_constants import third_from_array
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.testing import PairPotential

from .crystals import calculated, needs_phono3py, potential


@pytest.fixture(autouse=True)
def _phono3py() -> None:
    needs_phono3py()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "MgO.yaml"
    calculated().save(path, settings={"force_sets": True, "force_constants": False})
    return path


def other() -> PairPotential:
    return PairPotential(3.5, (8, 12))


def test_the_potential_that_made_the_forces_has_no_error(source, tmp_path) -> None:
    models = {
        "same": potential(),
        "ase": pft.Calculator(potential()),
        "other": other(),
    }
    found = evaluate_third_order(models, str(source), tmp_path / "out", progress=False)
    same, ase, wrong = found.rows
    assert same["status"] == ase["status"] == wrong["status"] == "ok"
    # Sixteen digits of forces in the file, over two displacements; meV/Å³.
    assert same["third_order_mae"] < 1e-6
    assert ase["third_order_mae"] < 1e-6
    assert same["third_order_correlation"] == pytest.approx(1, abs=1e-12)
    # Exact second derivatives of the model, against differences over 0.03 Å.
    assert same["force_constants_mae"] < 0.05
    assert wrong["third_order_mae"] > 1
    assert wrong["reference_third_order_mean"] == same["reference_third_order_mean"]
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["models"]["other"]["third_order_mae"]["n"] == 1
    with (tmp_path / "out" / "per_material.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["third_order_mae"]) == wrong["third_order_mae"]
    assert "finite differences of pairs" in rows[0]["third_order_from"]


def test_errors_are_means_over_what_their_names_say() -> None:
    phonons = calculated()
    reference = np.zeros((2, 8, 8, 3, 3, 3))
    first, second = phonons.primitive.p2s_map
    reference[0, first, first, 0, 1, 2] = 3.0
    reference[1, second, 5, 0, 0, 0] = 2 * LARGE
    reference[1, 2, 2, 0, 0, 0] = LARGE / 2
    found = reference.copy()
    found[0, first, first] += 1.0
    found[1, 2, 2, 0, 0, 0] += 0.5
    row = compare_third(found, third_from_array(reference, phonons.primitive))
    n_blocks = 2 * 8 * 8
    assert row["third_order_mae"] == pytest.approx(1e3 * 27.5 / (27 * n_blocks))
    # Two blocks are large, and one of them is off by 1 in each of its 27 elements.
    assert row["third_order_large_share"] == 2 / n_blocks
    assert row["third_order_large_mae"] == pytest.approx(1e3 * 27 / (27 * 2))
    assert row["third_order_on_site_mae"] == pytest.approx(1e3 * 27 / (27 * 2))


def test_failures_have_reasons_and_the_others_go_on(source, tmp_path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(source.read_text().replace("displacement_pairs:", "pairs:"))
    found = evaluate_third_order(
        {"right": potential(), "lacks": PairPotential(4.0, (11, 17))},
        [str(source), str(broken)],
        tmp_path / "out",
        progress=False,
    )
    assert found.summary["counts"]["unreadable"] == 1
    assert found.summary["counts"]["failed"] == {"right": 1, "lacks": 2}
    reasons = [f["error"] for f in found.summary["failures"]]
    assert any("FORCES_FC3" in reason for reason in reasons)
    assert any(reason.startswith("UnknownElementError") for reason in reasons)
    assert found.rows[0]["third_order_mae"] < 1e-6


@pytest.mark.parametrize("what", ["pairs", "exact"])
def test_a_potential_that_is_not_finite_fails(source, tmp_path, what) -> None:
    model = potential()
    model.stiffness.data *= np.nan
    calculator = pft.Calculator(model)
    given = calculator if what == "pairs" else model
    found = evaluate_third_order(given, str(source), tmp_path / "out", progress=False)
    assert found.summary["counts"]["failed"] == {"model": 1}
    assert found.rows[0]["status"] == "failed"
    method = "finite_displacement" if what == "pairs" else "third_derivatives"
    with pytest.raises(DivergenceError, match="not finite in"):
        pft.third_order_force_constants(given, calculated(), method=method)


def test_sources_that_cannot_be_opened_are_named(source, tmp_path) -> None:
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere.yaml")
    found = evaluate_third_order(
        potential(), str(tmp_path / "*.yaml"), tmp_path / "out", progress=False
    )
    assert [row["name"] for row in found.rows if row["status"] == "ok"] == ["MgO"]
    assert found.summary["counts"]["unreadable"] == 1
    assert "gone.yaml" in found.summary["failures"][0]["error"]


def test_what_is_done_is_not_computed_again(source, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    first = evaluate_third_order(potential(), str(source), out, progress=False)

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(third_order_runner, "third_order_force_constants", forbidden)
    (source.parent / "notes.txt").write_text("of no material")
    again = evaluate_third_order(potential(), str(source), out, progress=False)
    assert again.rows == first.rows
    # Another potential is.
    changed = evaluate_third_order(other(), str(source), out, progress=False)
    assert changed.rows[0]["status"] == "failed"


def composed(*overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


def test_the_command_prints_errors_of_all_potentials(
    source, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    potential().save(Path("true.pair"))
    other().save(Path("other.pair"))
    choices = (
        *("task=third_order", "phonons=MgO.yaml", "paths.run=run", "progress=false"),
        *("model.checkpoint=true.pair", "compare.other.checkpoint=other.pair"),
        "accelerator=cpu",
    )
    found = evaluate(composed(*choices))
    check_evaluation(found.summary)
    printed = capsys.readouterr().out
    assert "meV/Å³ (mean of DFT)" in printed
    assert "0.00 (" in printed
    assert {row["model"] for row in found.rows} == {"model", "other"}
    figures = {file.name for file in Path("run/figures").iterdir()}
    assert figures == {"third_order_errors.png", "third_order_parity.png"}
    assert 'alt="third order parity"' in Path("run/report.html").read_text()
    assert "task: third_order" in Path("run/config.yaml").read_text()
    with pytest.raises(ConfigError, match="upstream is given"):
        evaluate(composed(*choices, "upstream=x.xyz"))


def test_nothing_begins_without_phono3py(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("pft_lightning.data.third_order.version", lambda _: "3.1.0")
    with pytest.raises(BackendUnavailableError, match=r"3\.1\.0 is too old"):
        evaluate_third_order(potential(), "nothing.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()
