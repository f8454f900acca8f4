"""One training, from its configuration to its result."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.callbacks.measured_loss import MeasuredLoss
from pft_lightning.callbacks.progress import RunProgress
from pft_lightning.callbacks.property_loss import PropertyLoss
from pft_lightning.callbacks.start import Start
from pft_lightning.callbacks.stopping import StopTogether
from pft_lightning.callbacks.third_order_loss import ThirdOrderLoss
from pft_lightning.json_files import write_json
from pft_lightning.losses.properties import MEASURABLE, Property, PropertyErrors
from pft_lightning.options.presets import asks_for_rate
from pft_lightning.physics.pair_probes import PairProbe
from pft_lightning.physics.property_probes import PropertyProbe
from pft_lightning.runs.checks import check_finite, check_monitors, check_train
from pft_lightning.runs.dashboard import open_experiment
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.functionals import (
    as_summary,
    find_functionals,
    warn_of_difference,
)
from pft_lightning.runs.kinds import start_run
from pft_lightning.runs.run import TrainingRun
from pft_lightning.runs.tables import print_trainable
from pft_lightning.training.balance import AUTO
from pft_lightning.training.checkpoint_io import AtomicCheckpointIO
from pft_lightning.training.hessian import PUBLISHED_WEIGHT
from pft_lightning.training.instantiation import instantiate
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.validation import MONITOR


PAPER_EPOCHS = 200  # arXiv:2601.07742

# Callbacks of the default configuration that have nothing to do without a logger.
_NEED_LOGGER = ("learning_rate", "throughput", "device_stats")


def train(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run one training from a composed configuration.

    Args:
        config: As composed from ``conf/train.yaml``.
        overrides: What of it was given on the command line; they win over
            what a file of options, as ``mace_config`` names one, says.

    Returns:
        The content of ``summary.json``; ``model``, the file that was written, is
        known to the first process only.

    Raises:
        PFTError: Anything in the configuration or the data that cannot be used.
    """
    without_rate = asks_for_rate(config)
    config = check_train(config)
    folder = RunFolder(config.paths.run)
    started = folder.started_rate() if without_rate and config.resume else None
    if started is not None:
        config.optimizer.lr = started
    elif without_rate and not config.mace_config and _rank() == 0:
        print(
            f"optimizer.lr={config.optimizer.lr:g}, which goes with the adaptation: "
            "none was given."
        )
    with folder.locked():
        return _train(config, overrides, folder)


def _train(
    config: DictConfig, overrides: Sequence[str], folder: RunFolder
) -> dict[str, Any]:
    run = _start(config, overrides, folder)
    config = run.config
    trainer = build_trainer(config, folder)
    if trainer.is_global_zero and config.resume:
        run.check_resumable()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module = run.build_module()
    functionals = find_functionals(config, module.model)
    warn_of_difference(functionals)
    datamodule = run.build_datamodule(module.model)
    checkpoint = folder.resume_checkpoint() if config.resume else None
    _begin(folder, trainer, module)
    start = Start(partial(_record_start, run, trainer, module))
    if checkpoint is None:
        start.happens()
    else:  # which Lightning may refuse
        trainer.callbacks.insert(0, start)  # type: ignore[attr-defined]
    if checkpoint is not None and folder.before.exists():
        before = folder.read_before()
    else:
        before = _validate_start(folder, trainer, module, datamodule)
    check_monitors(config.callbacks, before)
    trainer.fit(
        module,
        datamodule,
        ckpt_path=None if checkpoint is None else str(checkpoint),
        weights_only=True,
    )
    start.happens()  # where nothing was left to train
    _heed_sigterm(trainer)
    found = module.balance.weights  # before another checkpoint brings its own
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
        **({"loss_weights": found} if found else {}),
        **({"functionals": as_summary(functionals)} if functionals else {}),
        "steps": trainer.global_step,
        "memory_splits": module.memory_splits,
        "counts": datamodule.counts,
        "versions": collect_versions(),
    }
    if trainer.is_global_zero:
        _write_result(folder, module, summary)
        for logger in trainer.loggers:
            _log_before_after(logger, metrics)
            logger.finalize("success")
    trainer.strategy.barrier("pft_train_end")
    return summary


def _validate_start(
    folder: RunFolder,
    trainer: lightning.Trainer,
    module: PhononFineTuning,
    datamodule: lightning.LightningDataModule,
) -> dict[str, float]:
    """Errors before the training, which its folder keeps."""
    before = validate(trainer, module, datamodule)
    check_finite(before, "the weights that training starts from")
    if trainer.is_global_zero:
        write_json(folder.before, before)
    return before


def _start(
    config: DictConfig, overrides: Sequence[str], folder: RunFolder
) -> TrainingRun:
    """Prepare the run, in a folder that holds no other one."""
    rank = _rank()
    if rank == 0:
        folder.check_unused(resume=config.resume)
    return start_run(config, overrides, folder.path, rank)


def _rank() -> int:
    # Lightning finds it when it is imported: before there is a trainer.
    return int(getattr(rank_zero_only, "rank", 0))


def _begin(
    folder: RunFolder, trainer: lightning.Trainer, module: PhononFineTuning
) -> None:
    """Say what is trained, and reach what the loggers write to."""
    if trainer.is_global_zero:
        write_json(folder.trainable, module.trainable.parameters)
        print_trainable(module.trainable, folder.trainable)
        for logger in trainer.loggers:
            open_experiment(logger)
            if isinstance(logger, WandbLogger) and logger.version is not None:
                folder.write_wandb_id(str(logger.version))


def _record_start(
    run: TrainingRun, trainer: lightning.Trainer, module: PhononFineTuning
) -> None:
    """Write what is trained with, to the run folder and the loggers."""
    if trainer.is_global_zero:
        run.record()
    for logger in trainer.loggers:
        resolved = OmegaConf.to_container(run.config, resolve=True)
        logger.log_hyperparams(
            {**resolved, **module.trainable.summary()}  # type: ignore[dict-item]
        )


def _write_result(
    folder: RunFolder, module: PhononFineTuning, summary: dict[str, Any]
) -> None:
    """Write the trained model and ``summary.json``."""
    result = folder.path / f"model{module.model.file_suffix}"
    module.model.save(result)
    summary["model"] = result.name
    write_json(folder.summary, summary)


def _log_before_after(logger: Logger, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the final table, and each change, to a W&B run, and end it.

    Loggers of other kinds are left alone. A W&B run that is not ended would be taken by
    the next training of the same process, as in a Hydra multirun.

    Args:
        logger: Of the trainer.
        metrics: Per metric its value ``before`` and ``after``.
    """
    if not isinstance(logger, WandbLogger):
        return
    rows = [
        [name, values.get("before"), values.get("after")]
        for name, values in metrics.items()
    ]
    logger.log_table(
        "summary/before_after", columns=["metric", "before", "after"], data=rows
    )
    for name, before, after in rows:
        logger.experiment.summary[f"before/{name}"] = before
        logger.experiment.summary[f"after/{name}"] = after
    logger.experiment.finish()


def build_callbacks(config: DictConfig) -> list[Callback]:
    """Instantiate the callbacks of the configuration and the Hessian loss."""
    chosen = [
        instantiate(callback, where=f"callbacks.{name}", trust=config.trust_config)
        for name, callback in config.callbacks.items()
        if callback and (config.logger or name not in _NEED_LOGGER)
    ]
    chosen.append(StopTogether())
    wanted = config.trainer.get("enable_progress_bar") is not False
    if wanted and not any(isinstance(callback, ProgressBar) for callback in chosen):
        chosen.append(RunProgress())
    if config.probe is None:  # no phonons to train on
        return chosen
    loss = config.loss
    hessian_loss = HessianLoss(
        instantiate(config.probe, where="probe", trust=config.trust_config),
        weight=PUBLISHED_WEIGHT if loss.phonon.hvp == AUTO else loss.phonon.hvp,
        kind=loss.kind.hvp,
        huber_delta=loss.huber_delta,
        schedule=loss.hvp_schedule,
        warmup_steps=loss.hvp_warmup_steps,
        every_n_phonon_steps=loss.hvp_every_n_phonon_steps,
        seed=config.seed,
    )
    # Others set up first: with them phonon steps have a loss though that of Hessians be
    # zero.
    return [*_other_losses(config), hessian_loss, *chosen]


def _other_losses(config: DictConfig) -> list[Callback]:
    """Losses beside those on Hessians, as far as they count."""
    loss = config.loss
    found: list[Callback] = []
    if loss.phonon.third_order > 0:
        third_order_loss = ThirdOrderLoss(
            PairProbe(loss.third_order_pairs, loss.n_third_order_pairs, config.seed),
            weight=loss.phonon.third_order,
            kind=loss.kind.third_order,
            huber_delta=loss.huber_delta,
        )
        found.append(third_order_loss)
    compared = PropertyErrors(
        temperatures=tuple(loss.temperatures),
        smearing=loss.dos_smearing,
        kind=loss.kind.properties,
        huber_delta=loss.huber_delta,
        assignment=loss.frequency_assignment,
    )
    probe = PropertyProbe(loss.n_property_probes, loss.property_share, config.seed)
    weights = {name: loss.phonon[name] for name in get_args(Property)}
    if any(weights.values()):
        found.append(PropertyLoss(weights, compared=compared, probe=probe))
    if OmegaConf.select(config, "data.measured.train") is not None:
        measured = MeasuredLoss(
            {name: loss.measured[name] for name in MEASURABLE},
            compared=compared,
            probe=replace(probe, share=1.0),
        )
        found.append(measured)
    return found


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
        raise SIGTERMException
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StopTogether):
            callback.heed(trainer)


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
