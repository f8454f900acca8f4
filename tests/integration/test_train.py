from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from commands import Command

from pft_lightning import load_model
from pft_lightning.errors import ConfigError, DivergenceError
from pft_lightning.runs.train import train


PLUGINS = Path(__file__).parent / "plugins"
METRICS = {
    "phonon/hvp_mae",
    "phonon/forces_mae",
    "upstream/energy_mae",
    "upstream/forces_mae",
    "upstream/stress_mae",
}


def test_training_lowers_the_curvature_error_and_reports_before_and_after(
    compose, tmp_path
):
    summary = train(
        compose(tmp_path / "run", "trainer.max_steps=200", "optimizer.lr=1e-2")
    )
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text()) == summary
    assert set(summary) >= METRICS
    for name in METRICS:
        assert set(summary[name]) == {"before", "after"}
    assert (
        summary["phonon/hvp_mae"]["after"] < 0.5 * summary["phonon/hvp_mae"]["before"]
    )
    assert summary["seed"] == 0
    assert summary["counts"] == {
        "phonon_train": 4, "phonon_val": 1, "upstream_train": 13, "upstream_val": 5,
    }  # fmt: skip
    assert {"torch", "lightning", "pft_lightning"} <= set(summary["versions"])
    for name in ("config.yaml", "versions.json", "command.txt", "before.json"):
        assert (run / name).is_file(), name
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_the_exported_model_is_the_one_that_the_summary_describes(compose, tmp_path):
    run = tmp_path / "run"
    summary = train(compose(run, "trainer.max_steps=30", "optimizer.lr=1e-2"))
    again = train(
        compose(
            tmp_path / "again",
            f"model.checkpoint={run / summary['model']}",
            "trainer.max_steps=1",
        )
    )
    for name in METRICS:
        # The same float64 weights on the same fixed tangents.
        assert again[name]["before"] == pytest.approx(
            summary[name]["after"], rel=1e-12, abs=1e-14
        )


@pytest.mark.parametrize(
    "probe",
    [
        "column",
        "irreducible",
        "rademacher",
        "gaussian",
        "commensurate",
        "commensurate_rademacher",
        "mode",
        "sparse",
    ],
)
@pytest.mark.parametrize("mode", ["alternate", "joint"])
def test_every_probe_trains_in_both_modes(compose, tmp_path, probe, mode):
    summary = train(
        compose(
            tmp_path,
            f"probe={probe}",
            "probe.n_probes=2",
            f"data.mode={mode}",
            "trainer.max_steps=60",
            "optimizer.lr=1e-2",
        )
    )
    assert summary["phonon/hvp_mae"]["after"] < summary["phonon/hvp_mae"]["before"]


@pytest.mark.parametrize("kind", ["mae", "l2", "mse", "huber"])
def test_every_loss_kind_trains(compose, tmp_path, kind):
    kinds = [f"loss.kind.{q}={kind}" for q in ("energy", "forces", "stress", "hvp")]
    summary = train(
        compose(tmp_path, *kinds, "trainer.max_steps=60", "optimizer.lr=1e-2")
    )
    assert summary["phonon/hvp_mae"]["after"] < summary["phonon/hvp_mae"]["before"]


def test_a_training_without_upstream_data_runs_and_says_what_it_risks(
    compose, tmp_path
):
    config = compose(tmp_path, "data.upstream.train=null", "data.upstream.val=null")
    with pytest.warns(UserWarning, match="nothing keeps the potential from forgetting"):
        summary = train(config)
    assert "upstream/forces_mae" not in summary
    assert summary["counts"] == {"phonon_train": 4, "phonon_val": 1}


def test_without_validation_sets_a_share_is_held_out(compose, tmp_path):
    summary = train(
        compose(tmp_path, "data.phonons.val=null", "data.upstream.val=null")
    )
    assert summary["counts"] == {
        "phonon_train": 3, "phonon_val": 1, "upstream_train": 12, "upstream_val": 1,
    }  # fmt: skip


def test_an_existing_run_is_not_overwritten(compose, tmp_path):
    train(compose(tmp_path, "trainer.max_steps=1"))
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="resume=true"):
        train(compose(tmp_path, "trainer.max_steps=1"))
    assert (tmp_path / "summary.json").read_bytes() == before


def test_a_linear_schedule_and_a_rarer_term_are_configurable(compose, tmp_path):
    summary = train(
        compose(
            tmp_path,
            "loss.hvp_schedule=linear",
            "loss.hvp_warmup_steps=20",
            "loss.hvp_every_n_phonon_steps=2",
            "optimizer.lr=1e-2",
            "trainer.max_steps=60",
        )
    )
    assert summary["phonon/hvp_mae"]["after"] < summary["phonon/hvp_mae"]["before"]


def test_a_run_with_float32_stays_in_float32(compose, tmp_path):
    summary = train(compose(tmp_path, "model.dtype=float32"))
    assert load_model(tmp_path / summary["model"]).dtype == torch.float32


def test_a_model_without_some_elements_skips_and_names_the_structures(
    compose, tmp_path, world
):
    from pft_lightning.testing import PairPotential

    PairPotential(4.0, (3, 9, 11, 12, 8, 17)).save(tmp_path / "no_si.pair")
    config = compose(tmp_path / "run", f"model.checkpoint={tmp_path / 'no_si.pair'}")
    with pytest.warns(UserWarning, match=r"1 of 4 structures.*Si"):
        summary = train(config)
    assert summary["counts"]["phonon_train"] == 3


@pytest.mark.parametrize("what", ["energy", "gradient"])
def test_training_stops_at_the_first_number_that_is_not_finite(
    compose, tmp_path, monkeypatch, what
):
    monkeypatch.syspath_prepend(PLUGINS)
    config = compose(
        tmp_path,
        "callbacks.last.every_n_steps=1",
        "trust_config=true",
        "loss.phonon.energy=1",
        "+callbacks.spoil._target_=pft_test_plugins.SpoilStep",
        "+callbacks.spoil.step=5",
        f"+callbacks.spoil.what={what}",
    )
    kind = {"energy": r"the loss is (inf|nan)", "gradient": "the gradient is nan"}
    with pytest.raises(DivergenceError, match=kind[what]) as caught:
        train(config)
    message = str(caught.value)
    # Of ten batches an epoch, every fifth holds phonons.
    assert "after 5 steps, in batch 5 of epoch 0, of phonon structures" in message
    assert any(name in message for name in ("LiF", "NaCl", "MgO", "Si"))
    check_nothing_is_written_of_a_divergence(tmp_path)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_weights_that_ran_away_in_the_last_step_are_not_exported(compose, tmp_path):
    rate = ("optimizer.lr=1e30", "optimizer.weight_decay=0", "export=last")
    with pytest.raises(DivergenceError, match="phonon/hvp_mae is nan"):
        train(compose(tmp_path, *rate, "trainer.max_steps=1"))
    check_nothing_is_written_of_a_divergence(tmp_path)


def check_nothing_is_written_of_a_divergence(run: Path) -> None:
    assert not [*run.glob("model.*"), *run.glob("summary.json")]
    state = torch.load(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
    for path in run.glob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_monitor_that_nothing_logs_is_refused_before_training(compose, tmp_path):
    config = compose(tmp_path, "callbacks.best.monitor=foo")
    known = r"expected one of phonon/hvp_mae, .*upstream/stress_mae, or a loss"
    with pytest.raises(
        ConfigError, match=rf"(?i)callbacks.best.monitor=foo; .*{known}"
    ):
        train(config)
    assert not (tmp_path / "checkpoints").exists()


def test_the_commands_that_a_training_ends_with_work_as_they_stand(pft_train, tmp_path):
    process = pft_train(tmp_path / "a run", "trainer.max_steps=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    lines = [line for line in output.splitlines() if line.startswith("  pft-evaluate")]
    assert len(lines) == 2, output
    fast = ("protocol.mesh=[4,4,4]", "protocol.band_points=5", "accelerator=cpu")
    for number, line in enumerate(lines):
        name, *words = shlex.split(line)
        folder = tmp_path / f"evaluation-{number}"
        command = Command(name, *words, *fast, f"hydra.run.dir={folder}", merged=True)
        output, _ = command.communicate(timeout=300)
        assert command.returncode == 0, output
        assert (folder / "report.html").is_file()
