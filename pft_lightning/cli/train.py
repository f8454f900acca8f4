"""``pft-train``: fine-tune a potential on force constants."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import import_backend, load_model
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.callbacks.wandb_dashboard import log_before_after
from pft_lightning.cli.command import Terminated, command
from pft_lightning.cli.memory import keep_freed_memory
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.json_files import write_json
from pft_lightning.runs.checks import (
    check_finite,
    check_monitors,
    check_train,
    check_trust,
)
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.tables import print_before_after, print_trainable
from pft_lightning.training.checkpoint_io import AtomicCheckpointIO
from pft_lightning.training.instantiation import instantiate
from pft_lightning.training.module import MONITOR, PhononFineTuning


if TYPE_CHECKING:
    from pft_lightning.integrations.mace.run import MACERun


PAPER_EPOCHS = 200  # arXiv:2601.07742

# Callbacks of the default configuration that have nothing to do without a logger.
_NEED_LOGGER = ("learning_rate", "throughput", "device_stats")


def build_module(config: DictConfig) -> PhononFineTuning:
    """Load the potential and wrap it, ready to be trained."""
    trust = config.trust_config
    return _wrap(
        config,
        adaptation=instantiate(config.adaptation, where="adaptation", trust=trust),
        optimizer=instantiate(config.optimizer, where="optimizer", trust=trust),
        scheduler=instantiate(config.scheduler, where="scheduler", trust=trust),
    )


def build_trained_module(config: DictConfig) -> PhononFineTuning:
    """The same without what is needed to train, for the checkpoint of a run."""
    trust = config.trust_config
    return _wrap(
        config,
        adaptation=instantiate(config.adaptation, where="adaptation", trust=trust),
    )


def _wrap(config: DictConfig, **parts: Any) -> PhononFineTuning:
    model = load_model(
        config.model.checkpoint,
        backend=config.model.backend,
        dtype=config.model.dtype,
        head=config.model.head,
        trust=config.model.get("trust", False),
    )
    loss = config.loss
    phonon = {name: w for name, w in loss.phonon.items() if name != "hvp"}
    kinds = {name: kind for name, kind in loss.kind.items() if name != "hvp"}
    return PhononFineTuning(
        model,
        phonon_weights=phonon,
        upstream_weights=dict(loss.upstream or {}),  # none beside mace_config
        kinds=kinds,
        reduction=loss.reduction,
        huber_delta=loss.huber_delta,
        engine=config.engine,
        validation_seed=config.seed,
        **parts,
    )


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


def build_trainer(config: DictConfig) -> lightning.Trainer:
    """Instantiate the trainer of the configuration."""
    folder = RunFolder(config.paths.run)
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


def validate(
    trainer: lightning.Trainer,
    module: PhononFineTuning,
    datamodule: lightning.LightningDataModule,
) -> dict[str, float]:
    """Metrics of the module's present weights on the validation sets."""
    trainer.validate(module, datamodule, verbose=False)
    _heed_sigterm(trainer)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _heed_sigterm(trainer: lightning.Trainer) -> None:
    # Lightning leaves the last batch of its loops without looking.
    if trainer.received_sigterm:
        raise Terminated


def _is_better(
    config: DictConfig, one: Mapping[str, float], other: Mapping[str, float]
) -> bool:
    """Compare as the callback does that chose the best checkpoint; NaN is worst."""
    best = config.callbacks.get("best") or {}
    monitor = best.get("monitor", MONITOR)
    if monitor not in one:  # known of training steps only
        return False
    if math.isnan(one[monitor]) or math.isnan(other[monitor]):
        return math.isnan(other[monitor]) and not math.isnan(one[monitor])
    if best.get("mode", "min") == "max":
        return one[monitor] > other[monitor]
    return one[monitor] < other[monitor]


def _choose_weights(
    config: DictConfig,
    folder: RunFolder,
    trainer: lightning.Trainer,
    module: PhononFineTuning,
    datamodule: lightning.LightningDataModule,
) -> dict[str, float]:
    """Keep the last weights or load the best ones, and give their metrics."""
    after = validate(trainer, module, datamodule)
    if config.export == "last" or not folder.best_checkpoint.exists():
        return after
    # The last weights may not have been validated before: compare, not assume.
    last = copy.deepcopy(module.state_dict())
    best = torch.load(folder.best_checkpoint, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(best)
    module.load_state_dict(best["state_dict"])
    after_best = validate(trainer, module, datamodule)
    if not _is_better(config, after, after_best):
        return after_best
    module.load_state_dict(last)
    return after


def _prepare_mace(
    config: DictConfig, overrides: Sequence[str], folder: RunFolder
) -> MACERun:
    """Let MACE prepare what its file describes."""
    import_backend("mace")  # says how to install it where it is missing
    from pft_lightning.integrations.mace.run import MACERun

    # Lightning finds it when it is imported: before there is a trainer.
    rank = getattr(rank_zero_only, "rank", 0)
    if rank == 0:
        folder.check_unused(resume=config.resume)
    run = MACERun(config, overrides, folder.path, rank)
    if rank == 0:
        run.record_network(folder.mace_network)
    return run


def train(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run one training from a composed configuration.

    Args:
        config: As composed from ``conf/train.yaml``.
        overrides: What of it was given on the command line; asked for where
            ``mace_config`` names a file that the command line wins over.

    Returns:
        The content of ``summary.json``.

    Raises:
        PFTError: Anything in the configuration or the data that cannot be used.
    """
    config = check_train(config)
    folder = RunFolder(config.paths.run)
    with folder.locked():
        return _train(config, overrides, folder)


def _train(
    config: DictConfig, overrides: Sequence[str], folder: RunFolder
) -> dict[str, Any]:
    mace = None
    if config.get("mace_config"):
        mace = _prepare_mace(config, overrides, folder)
        config = mace.config
    trainer = build_trainer(config)
    if trainer.is_global_zero:
        folder.check_unused(resume=config.resume)
        if config.resume:
            folder.check_resumable(config)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module, datamodule = _build(config, mace)
    _record_start(config, folder, trainer, module)
    checkpoint = folder.resume_checkpoint() if config.resume else None
    if checkpoint is not None and folder.before.exists():
        before = folder.read_before()
    else:
        before = validate(trainer, module, datamodule)
        check_finite(before, "the weights that training starts from")
        if trainer.is_global_zero:
            write_json(folder.before, before)
    check_monitors(config.callbacks, before)
    trainer.fit(
        module,
        datamodule,
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True,
    )
    _heed_sigterm(trainer)
    after = _choose_weights(config, folder, trainer, module, datamodule)
    check_finite(after, "the trained weights")
    metrics = {
        name: {"before": before.get(name), "after": value}
        for name, value in after.items()
    }
    summary: dict[str, Any] = {
        **metrics,
        "seed": config.seed,
        "trainable": module.trainable.summary(),
        "steps": trainer.global_step,
        "memory_splits": module.memory_splits,
        "counts": datamodule.counts,
        "versions": collect_versions(),
    }
    if trainer.is_global_zero:
        _write_result(folder, trainer, module, summary, metrics)
    trainer.strategy.barrier("pft_train_end")
    return summary


def _build(
    config: DictConfig, mace: MACERun | None
) -> tuple[PhononFineTuning, PhononDataModule]:
    """Build the module and its data."""
    if mace is not None:
        module: PhononFineTuning = mace.build_module()
        return module, mace.build_datamodule(module.model)
    module = build_module(config)
    return module, instantiate(
        config.data,
        where="data",
        trust=config.trust_config,
        cutoff=module.model.cutoff,
        atomic_numbers=module.model.atomic_numbers,
    )


def _record_start(
    config: DictConfig,
    folder: RunFolder,
    trainer: lightning.Trainer,
    module: PhononFineTuning,
) -> None:
    """Write what is known before the first step, to the run folder and the loggers."""
    if trainer.is_global_zero:
        folder.write_start(config)
        write_json(folder.trainable, module.trainable.parameters)
        print_trainable(module.trainable, folder.trainable)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger.version is not None:
                folder.write_wandb_id(str(logger.version))
    for logger in trainer.loggers:
        resolved = OmegaConf.to_container(config, resolve=True)
        logger.log_hyperparams(
            {**resolved, **module.trainable.summary()}  # type: ignore[dict-item]
        )


def _write_result(
    folder: RunFolder,
    trainer: lightning.Trainer,
    module: PhononFineTuning,
    summary: dict[str, Any],
    metrics: dict[str, dict[str, float | None]],
) -> None:
    """Write the trained model and ``summary.json``, and say what has changed."""
    result = folder.path / f"model{module.model.file_suffix}"
    module.model.save(result)
    summary["model"] = result.name
    write_json(folder.summary, summary)
    print_before_after(metrics, summary["counts"], result)
    for logger in trainer.loggers:
        log_before_after(logger, metrics)
        logger.finalize("success")


@command(
    "train",
    after_stop="the same command with resume=true goes on from the last checkpoint.",
)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-train``."""
    overrides = HydraConfig.get().overrides.task
    check_trust(config, overrides)
    keep_freed_memory()
    train(config, overrides)
