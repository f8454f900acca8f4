"""``pft-train``: fine-tune a potential on force constants."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import import_backend, load_model
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.callbacks.wandb_dashboard import log_before_after
from pft_lightning.cli.common import report_errors
from pft_lightning.cli.memory import keep_freed_memory
from pft_lightning.cli.run_folder import (
    RunFolder,
    collect_versions,
    read_json,
    write_json,
)
from pft_lightning.cli.tables import print_before_after, print_trainable
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.errors import ConfigError
from pft_lightning.training.checkpoint_io import AtomicCheckpointIO
from pft_lightning.training.module import MONITOR, PhononFineTuning


if TYPE_CHECKING:
    from pft_lightning.integrations.mace import MACERun


PAPER_EPOCHS = 200  # arXiv:2601.07742

# Callbacks of the default configuration that have nothing to do without a logger.
_NEED_LOGGER = ("learning_rate", "throughput", "device_stats")


def build_module(config: DictConfig) -> PhononFineTuning:
    """Load the potential and wrap it."""
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    if config.model.dtype not in dtypes:
        raise ConfigError(
            f"model.dtype is {config.model.dtype!r}; expected one of "
            f"{', '.join(dtypes)}."
        )
    model = load_model(
        config.model.checkpoint,
        backend=config.model.backend,
        dtype=dtypes[config.model.dtype],
        head=config.model.head,
    )
    loss = config.loss
    phonon = {name: w for name, w in loss.phonon.items() if name != "hvp"}
    kinds = {name: kind for name, kind in loss.kind.items() if name != "hvp"}
    return PhononFineTuning(
        model,
        adaptation=instantiate(config.adaptation),
        phonon_weights=phonon,
        upstream_weights=dict(loss.upstream or {}),  # none beside mace_config
        kinds=kinds,
        reduction=loss.reduction,
        huber_delta=loss.huber_delta,
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler),
        engine=config.engine,
        validation_seed=config.seed,
    )


def build_callbacks(config: DictConfig) -> list[Callback]:
    """Instantiate the callbacks of the configuration and the Hessian loss."""
    chosen = [
        instantiate(callback)
        for name, callback in config.callbacks.items()
        if callback and (config.logger or name not in _NEED_LOGGER)
    ]
    if config.probe is None:  # no phonons to train on
        return chosen
    loss = config.loss
    hessian_loss = HessianLoss(
        instantiate(config.probe),
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
    logger: Logger | bool = (
        instantiate(config.logger, **kept) if config.logger else False
    )
    max_epochs = config.trainer.max_epochs
    if max_epochs is None:
        # One limit is enough: steps where they are given, else the published epochs.
        max_epochs = -1 if config.trainer.max_steps > 0 else PAPER_EPOCHS
    trainer: lightning.Trainer = instantiate(
        config.trainer,
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
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _is_better(
    config: DictConfig, one: Mapping[str, float], other: Mapping[str, float]
) -> bool:
    """Compare as the callback does that chose the best checkpoint; NaN is worst."""
    best = config.callbacks.get("best") or {}
    monitor = best.get("monitor", MONITOR)
    if math.isnan(one[monitor]) or math.isnan(other[monitor]):
        return math.isnan(other[monitor]) and not math.isnan(one[monitor])
    if best.get("mode", "min") == "max":
        return one[monitor] > other[monitor]
    return one[monitor] < other[monitor]


def _prepare_mace(
    config: DictConfig, overrides: Sequence[str], folder: RunFolder
) -> MACERun:
    """Let MACE prepare what its file describes."""
    import_backend("mace")  # says how to install it where it is missing
    from pft_lightning.integrations.mace import MACERun

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
    folder = RunFolder(config.paths.run)
    if config.export not in ("best", "last"):
        raise ConfigError(f"export is {config.export!r}; expected best or last.")
    mace = None
    if config.get("mace_config"):
        mace = _prepare_mace(config, overrides, folder)
        config = mace.config
    trainer = build_trainer(config)
    if trainer.is_global_zero:
        folder.check_unused(resume=config.resume)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module: PhononFineTuning
    datamodule: PhononDataModule
    if mace is not None:
        module = mace.build_module()
        datamodule = mace.build_datamodule(module.model)
    else:
        module = build_module(config)
        datamodule = instantiate(
            config.data,
            cutoff=module.model.cutoff,
            atomic_numbers=module.model.atomic_numbers,
        )
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

    checkpoint = folder.resume_checkpoint() if config.resume else None
    if checkpoint is not None and folder.before.exists():
        before = read_json(folder.before)
    else:
        before = validate(trainer, module, datamodule)
        if trainer.is_global_zero:
            write_json(folder.before, before)
    trainer.fit(
        module,
        datamodule,
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True,
    )
    after = validate(trainer, module, datamodule)
    if config.export == "best" and folder.best_checkpoint.exists():
        # The last weights may not have been validated before: compare, not assume.
        last = copy.deepcopy(module.state_dict())
        best = torch.load(folder.best_checkpoint, map_location="cpu", weights_only=True)
        module.on_load_checkpoint(best)
        module.load_state_dict(best["state_dict"])
        after_best = validate(trainer, module, datamodule)
        if not _is_better(config, after, after_best):
            after = after_best
        else:
            module.load_state_dict(last)

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
        result = folder.path / f"model{module.model.file_suffix}"
        module.model.save(result)
        summary["model"] = result.name
        write_json(folder.summary, summary)
        print_before_after(metrics, datamodule.counts, result)
        for logger in trainer.loggers:
            log_before_after(logger, metrics)
            logger.finalize("success")
    trainer.strategy.barrier("pft_train_end")
    return summary


@hydra.main(
    version_base="1.3", config_path="pkg://pft_lightning.conf", config_name="train"
)
@report_errors
def main(config: DictConfig) -> None:
    """Entry point of ``pft-train``."""
    keep_freed_memory()
    train(config, HydraConfig.get().overrides.task)
