from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from molecular_files import NAMES, molecule, write_orca

from pft_lightning import PhononDataModule, PhononSource
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.callbacks.phonon_validation import PhononValidation
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.physics.probes import RademacherProbe
from pft_lightning.physics.wave_probes import ModeProbe
from pft_lightning.training.module import PhononFineTuning


PROTOCOL = Protocol(temperatures=(0.0, 300.0, 300.0), band_points=0)


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.found.append(float(trainer.callback_metrics["train/phonon_loss"]))


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
@pytest.mark.parametrize("probe", [RademacherProbe(4), ModeProbe(4)])
def test_molecules_are_trained_on_with_probes_of_supercells_and_of_waves(
    tmp_path: Path, probe
) -> None:
    for name in NAMES:
        write_orca(tmp_path / f"{name}.hess", *molecule(name))
    torch.manual_seed(0)
    validation = PhononValidation(tmp_path, protocol=PROTOCOL)
    module = PhononFineTuning(
        PairPotential(4.0, (1, 6, 8)),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    )
    losses = Losses()
    trainer = lightning.Trainer(
        callbacks=[HessianLoss(probe), losses, validation],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=25,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=100,
    )
    data = PhononDataModule(
        PhononSource(tmp_path, tmp_path, batch_size=2), cache_dir=tmp_path / "cache"
    )
    trainer.fit(module, data)
    (found,) = trainer.validate(module, data, verbose=False)
    assert len(losses.found) == 25
    assert sum(losses.found[-5:]) < 0.8 * sum(losses.found[:5])
    assert 0.0 < found["phonon/frequency_mae_cm1"] < 5000.0
    assert 0.0 < found["phonon/zero_point_energy_error"] < 1.0
