from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from killing import SCHEDULE, check_kills_leave_no_trace, finish, weights
from two_processes import TWO

from pft_lightning.callbacks.stopping import InterruptedTogether, StoppedTogether
from pft_lightning.errors import PFTError
from pft_lightning.runs.train import train


def test_a_killed_and_resumed_run_ends_with_the_same_bits(pft_train, tmp_path):
    check_kills_leave_no_trace(pft_train, tmp_path, *SCHEDULE)


def test_killing_a_run_on_commensurate_cells_leaves_no_trace(pft_train, tmp_path):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        "probe=commensurate",
        "probe.share=0.7",
        "data.phonons.max_atoms=12",
    )


def test_killing_a_run_on_third_order_and_elastic_constants_leaves_no_trace(
    pft_train, third_order_store, elastic_crystals, tmp_path
):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        f"data.phonons.train={third_order_store}",
        "loss.phonon.third_order=100",
        f"data.elastic.train={elastic_crystals}",
        f"data.elastic.val={elastic_crystals}",
    )


def test_killing_a_run_on_properties_leaves_no_trace(pft_train, tmp_path):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        "loss.phonon.frequencies=10",
        "loss.frequency_assignment=overlap",
        "loss.phonon.heat_capacity=1",
        "loss.property_share=0.7",
    )


def test_killing_a_run_on_measured_values_leaves_no_trace(
    pft_train, measured_options, tmp_path
):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        *measured_options,
        "data.measured.batch_size=2",
        "data.measured.relax=true",
    )


def test_killing_a_run_that_finds_its_weights_leaves_no_trace(pft_train, tmp_path):
    check_kills_leave_no_trace(pft_train, tmp_path, *SCHEDULE, "loss=auto")
    first, second = (
        json.loads((tmp_path / name / "summary.json").read_text())["loss_weights"]
        for name in ("whole", "killed")
    )
    assert first == second
    assert len(first) == 5


def test_a_finished_run_can_be_made_longer_without_a_trace(pft_train, tmp_path):
    finish(pft_train(tmp_path / "whole", *SCHEDULE))
    longer = tmp_path / "longer"
    finish(pft_train(longer, *SCHEDULE, "trainer.max_steps=20"))
    finish(pft_train(longer, *SCHEDULE, "resume=true"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(longer)[name]), name


def test_a_run_killed_in_its_final_validation_exports_the_same_bits(
    pft_train, tmp_path
):
    finish(pft_train(tmp_path, *SCHEDULE))
    expected = weights(tmp_path)
    for left in ("summary.json", "model.pt"):
        (tmp_path / left).unlink()
    finish(pft_train(tmp_path, *SCHEDULE, "resume=true"))
    for name, value in expected.items():
        assert torch.equal(value, weights(tmp_path)[name]), name


@pytest.mark.parametrize("stop", ["in_validation", "at_epoch_end"])
def test_a_run_killed_in_a_validation_makes_up_for_it(pft_train, tmp_path, stop):
    """What depends on validations, here the schedule, must not notice the kill."""
    schedule = (
        *SCHEDULE,
        "scheduler=plateau",
        "scheduler.patience=0",
        "callbacks.last.every_n_steps=5",
        "export=best",
    )
    if stop == "in_validation":
        schedule += (
            "trainer.check_val_every_n_epoch=null",
            "trainer.val_check_interval=5",
        )
    finish(pft_train(tmp_path / "whole", *schedule))
    killer = (
        "trust_config=true",
        "+callbacks.killer._target_=pft_test_plugins.KillInValidation",
        "+callbacks.killer.step=20",
    )
    process = pft_train(tmp_path / "killed", *schedule, *killer)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    finish(pft_train(tmp_path / "killed", *schedule, "resume=true"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "killed")[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1", "seed"),
        ("data.phonons.batch_size=1", "batch limits"),
        ("probe=gaussian", "probe"),
    ],
)
def test_a_resume_that_could_not_be_exact_is_refused(
    pft_train, tmp_path, change, message
):
    finish(pft_train(tmp_path, "callbacks.last.every_n_steps=2"))
    process = pft_train(tmp_path, "resume=true", "trainer.max_steps=20", change)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert message in output
    assert "original setting" in output


def test_a_resume_that_is_refused_leaves_the_configuration_that_was_trained(
    compose, tmp_path
):
    train(compose(tmp_path, "trainer.max_steps=2"))
    before = (tmp_path / "config.yaml").read_bytes()
    again = ("resume=true", "trainer.max_steps=4")
    for change, message in (("seed=3", "seed"), ("optimizer.lr=1", r"lr is .* 0.0001")):
        with pytest.raises(PFTError, match=message):
            train(compose(tmp_path, *again, change))
        assert (tmp_path / "config.yaml").read_bytes() == before
    train(compose(tmp_path, *again))
    assert "max_steps: 4" in (tmp_path / "config.yaml").read_text()


def test_a_finished_run_that_is_resumed_records_with_what(compose, tmp_path):
    train(compose(tmp_path, "trainer.max_steps=2"))
    train(compose(tmp_path, "trainer.max_steps=2", "resume=true", "export=last"))
    assert "export: last" in (tmp_path / "config.yaml").read_text()


def test_a_rate_that_is_not_given_goes_on(compose, tmp_path):
    train(compose(tmp_path, "trainer.max_steps=2", "optimizer.lr=1e-3"))
    train(compose(tmp_path, "trainer.max_steps=4", "resume=true"))
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3
    assert "\n  lr: 0.001\n" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_told_to_stop_saves_what_it_has_and_says_how_to_go_on(
    pft_train, tmp_path, name
):
    schedule = (*SCHEDULE, "callbacks.last.every_n_steps=1000")
    finish(pft_train(tmp_path / "whole", *schedule))
    run = tmp_path / "stopped"
    process = pft_train(
        run,
        *schedule,
        "trust_config=true",
        "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
        f"+callbacks.stop={{step: 17, name: {name}}}",
        # As it is where nobody names it; Hydra knows it no longer after the job.
        "paths.run=${hydra:runtime.output_dir}",
    )
    check_stopped(process, run, step=17, name=name)
    finish(pft_train(run, *schedule, "resume=true"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(run)[name]), name


def test_an_interrupt_in_a_validation_saves_the_steps_before_it(pft_train, tmp_path):
    schedule = (
        *SCHEDULE,
        "trainer.max_steps=8",
        "callbacks.last.every_n_steps=1000",
        "trainer.check_val_every_n_epoch=null",
        "trainer.val_check_interval=5",
    )
    finish(pft_train(tmp_path / "whole", *schedule))
    run = tmp_path / "stopped"
    process = pft_train(
        run,
        *schedule,
        "trust_config=true",
        "+callbacks.stop._target_=pft_test_plugins.KillInValidation",
        "+callbacks.stop={step: 5, name: SIGINT}",
    )
    check_stopped(process, run, step=5, name="SIGINT")
    finish(pft_train(run, *schedule, "resume=true"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(run)[name]), name


def test_a_second_interrupt_ends_a_run_at_once_and_says_what_is_left(
    pft_train, tmp_path
):
    process = pft_train(
        tmp_path,
        *SCHEDULE,
        "trust_config=true",
        "callbacks.last.every_n_steps=1000",
        "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
        "+callbacks.stop={step: 7, times: 2, name: SIGINT}",
    )
    check_told(process, "SIGINT", "begins anew")
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("ranks", "times", "step", "name"),
    [
        ((0, 1), 2, 7, "SIGTERM"),
        ((1,), 1, 7, "SIGTERM"),
        ((1,), 1, 34, "SIGTERM"),
        ((0, 1), 1, 7, "SIGINT"),
        ((1,), 1, 7, "SIGINT"),
    ],
    ids=["both", "one", "last step", "both interrupted", "one interrupted"],
)
def test_two_processes_that_are_told_to_stop_do_so_after_the_same_step(
    pft_train, tmp_path, ranks, times, step, name
):
    run = tmp_path / "stopped"
    schedule = (*SCHEDULE, *TWO, "callbacks.last.every_n_steps=1000")
    process = pft_train(
        run,
        *schedule,
        "trust_config=true",
        "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
        f"+callbacks.stop={{step: {step}, ranks: {[*ranks]}, times: {times}, "
        f"name: {name}}}",
    )
    check_stopped(process, run, step=step, name=name)
    finish(pft_train(run, *schedule, "resume=true"))


def test_two_processes_that_are_told_to_stop_before_the_first_step_do_so(
    pft_train, tmp_path
):
    run = tmp_path / "stopped"
    process = pft_train(
        run,
        *SCHEDULE,
        *TWO,
        "trust_config=true",
        "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
        "+callbacks.stop={step: 0, ranks: [1]}",
    )
    check_told(process, "SIGTERM", "begins anew")
    assert not (run / "checkpoints" / "last.ckpt").exists()
    finish(pft_train(run, *SCHEDULE, *TWO, "resume=true"))


def test_a_process_whose_first_one_is_gone_says_so(pft_train, tmp_path):
    process = pft_train(
        tmp_path / "run",
        *SCHEDULE,
        *TWO,
        "trust_config=true",
        "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
        "+callbacks.stop={step: 7, ranks: [0], name: SIGKILL}",
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    assert "another process of this run has ended" in output
    assert "Traceback" not in output


def test_a_process_that_is_left_alone_says_so_and_how_to_go_on(pft_train, tmp_path):
    schedule = (*SCHEDULE, *TWO)
    # Lightning looks every five seconds: now and then it is faster than the connection
    # that breaks, and kills the process that would say it. Not three times in a row.
    for attempt in range(3):
        run = tmp_path / str(attempt)
        process = pft_train(
            run,
            *schedule,
            "trust_config=true",
            "+callbacks.stop._target_=pft_test_plugins.SignalInStep",
            "+callbacks.stop={step: 7, ranks: [1], name: SIGKILL}",
        )
        output, _ = process.communicate(timeout=300)
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 1, output
    assert "another process of this run has ended" in output
    assert "the same command with resume=true goes on" in output
    assert "Traceback" not in output
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6


def check_told(process, name: str, how: str) -> None:
    """A run that had a signal ended with its status, and said how to go on."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.Signals[name], output
    reason = {"SIGTERM": "stopped by SIGTERM: ", "SIGINT": "interrupted: "}[name]
    (said,) = [line for line in output.splitlines() if "resume=true" in line]
    assert said.startswith(reason)
    assert f"the same command with resume=true {how}" in said
    assert "Traceback" not in output


def check_stopped(process, run: Path, *, step: int, name: str) -> None:
    """A run saved its last step, and said how to go on."""
    check_told(process, name, "goes on from the last checkpoint.")
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    assert not list(run.glob("model.*"))


def test_a_script_that_is_stopped_and_catches_nothing_ends_as_a_shell_says():
    assert (StoppedTogether().code, InterruptedTogether().code) == (143, 130)
