"""The trainer of a run: callbacks, logger, limits."""

from __future__ import annotations

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.runs.folder import RunFolder
from pft_lightning.training.checkpoint_io import AtomicCheckpointIO
from pft_lightning.training.instantiation import instantiate


PAPER_EPOCHS = 200  # arXiv:2601.07742

# Callbacks of the default configuration that have nothing to do without a logger.
_NEED_LOGGER = ("learning_rate", "throughput", "device_stats")


def build_callbacks(config: DictConfig) -> list[Callback]:
    """Instantiate the callbacks of the configuration and the Hessian loss."""
    chosen = [
        instantiate(callback, where=f"callbacks.{name}", trust=config.trust_config)
        for name, callback in config.callbacks.items()
        if callback and (config.logger or name not in _NEED_LOGGER)
    ]
    if config.probe is None:  # no phonons to train on
        return chosen
    loss = config.loss
    hessian_loss = HessianLoss(
        instantiate(config.probe, where="probe", trust=config.trust_config),
        weight=loss.phonon.hvp,
        kind=loss.kind.hvp,
        huber_delta=loss.huber_delta,
        schedule=loss.hvp_schedule,
        warmup_steps=loss.hvp_warmup_steps,
        every_n_phonon_steps=loss.hvp_every_n_phonon_steps,
        seed=config.seed,
    )
    return [hessian_loss, *chosen]


def build_trainer(config: DictConfig, folder: RunFolder) -> lightning.Trainer:
    """Instantiate the trainer of the configuration.

    Args:
        config: complete.
        folder: of the run.
    """
    # A resumed run must neither delete the log of its first part nor start another.
    kept = folder.continued_log(config.logger) if config.resume else {}
    trust = config.trust_config
    logger: Logger | bool = (
        instantiate(config.logger, where="logger", trust=trust, **kept)
        if config.logger
        else False
    )
    max_epochs = config.trainer.max_epochs
    if max_epochs is None:
        # One limit is enough: steps where they are given, else the published epochs.
        max_epochs = -1 if config.trainer.max_steps > 0 else PAPER_EPOCHS
    trainer: lightning.Trainer = instantiate(
        config.trainer,
        where="trainer",
        trust=trust,
        callbacks=build_callbacks(config),
        logger=logger,
        plugins=[AtomicCheckpointIO()],
        _convert_="all",
        max_epochs=max_epochs,
    )
    return trainer
