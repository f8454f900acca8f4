"""``pft-train mace_config=run.yaml`` on several processes."""

from __future__ import annotations

import pytest
import torch
from mace_runs import E0S, PHONONS, logged, with_phonons
from models import build_mace
from two_processes import TWO, capture, check_same_steps, run

from pft_lightning import load_model


pytest.importorskip("mace", reason="mace is not installed here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "mode", "clips"),
    [
        ("weighted", "joint", False),
        ("huber", "joint", False),
        ("universal", "alternate", True),
    ],
)
def test_two_processes_take_the_steps_of_one_with_batches_twice_as_large(
    write_options, pft_train_mace, world, tmp_path, loss, mode, clips
):
    # Validation batches stay as they are: MACE's loss depends on them. The seven
    # frames make three, so that the processes have different numbers of them.
    options = {"loss": loss, "valid_batch_size": 3, "max_num_epochs": 3}
    if clips:
        # Where MACE fine-tunes, a gradient that grows from step to step counts too.
        base = tmp_path / "foundation.model"
        torch.save(build_mace("scale_shift", atomic_numbers=tuple(sorted(E0S))), base)
        options |= {
            "foundation_model": str(base),
            "foundation_model_elements": True,
            "multiheads_finetuning": False,
            "clip_grad": 1e-3,
        }
    phonons = with_phonons(world, f"data.mode={mode}", "data.upstream_per_phonon=1")
    one = pft_train_mace(
        write_options(batch_size=6, **options),
        tmp_path / "one",
        *phonons,
        *capture(tmp_path / "one.pt"),
        "data.phonons.batch_size=2",
    )
    run(one)
    two = pft_train_mace(
        write_options(batch_size=3, **options),
        tmp_path / "two",
        *phonons,
        *capture(tmp_path / "two.pt"),
        *TWO,
    )
    run(two)
    expected = torch.load(tmp_path / "one.pt")
    found = torch.load(tmp_path / "two.pt")
    assert len(expected) == len(found) == (6 if mode == "joint" else 12)
    check_same_steps(expected, found)
    for name in ("train/upstream_loss", "upstream/loss", "upstream/forces_mae"):
        losses = logged(tmp_path / "one", name)
        assert len(losses) >= 3
        assert logged(tmp_path / "two", name) == pytest.approx(losses, rel=1e-10)


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_with_the_same_bits(
    write_options, pft_train_mace, world, tmp_path
):
    path = write_options(batch_size=3, ema=True, ema_decay=0.5, max_num_epochs=3)
    overrides = (*with_phonons(world, "export=last"), *TWO)
    run(pft_train_mace(path, tmp_path / "whole", *overrides))
    run(pft_train_mace(path, tmp_path / "parts", *overrides, "trainer.max_steps=4"))
    run(pft_train_mace(path, tmp_path / "parts", *overrides, "resume=true"))
    whole, parts = (
        load_model(tmp_path / name / "model.model").state_dict()
        for name in ("whole", "parts")
    )
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


@pytest.mark.slow
def test_a_process_without_frames_to_validate_does_not_leave_the_other_waiting(
    write_options, pft_train_mace, world, tmp_path
):
    path = write_options(batch_size=3, valid_batch_size=50, max_num_epochs=1)
    overrides = (*PHONONS, "data.phonons.train=null", *TWO)
    run(pft_train_mace(path, tmp_path / "run", *overrides))
    assert len(logged(tmp_path / "run", "upstream/loss")) >= 1
