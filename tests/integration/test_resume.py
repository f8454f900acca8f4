from __future__ import annotations

import signal
import time

import pytest
import torch

from pft_lightning import load_model


# An epoch has ten steps: the runs below are killed in mid-epoch and past its end.
SCHEDULE = (
    "trainer.max_steps=34",
    "callbacks.last.every_n_steps=3",
    "probe.n_probes=2",
    "optimizer.lr=1e-3",
    "export=last",
)


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def weights(run):
    (result,) = run.glob("model.*")
    return load_model(result).state_dict()


def check_kills_leave_no_trace(pft_train, folder, *schedule):
    finish(pft_train(folder / "whole", *schedule))

    killed = folder / "killed"
    last = killed / "checkpoints" / "last.ckpt"
    process = pft_train(killed, *schedule)
    kills = 0
    while process.poll() is None:
        if last.exists() and kills < 2:
            # Not a moment of the program's choosing.
            time.sleep(0.05 + 0.1 * kills)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            process = pft_train(killed, *schedule, "resume=true")
        time.sleep(0.01)
    finish(process)
    assert kills == 2

    resumed = weights(killed)
    for name, value in weights(folder / "whole").items():
        assert torch.equal(value, resumed[name]), name


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


def test_killing_the_training_of_a_network_leaves_no_trace(
    pft_train, backend_base, tmp_path
):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        f"model.checkpoint={backend_base}",
        "model.dtype=float32",
        "trainer.max_steps=12",
    )


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
