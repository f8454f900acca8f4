"""What ``pft-train`` refuses before it trains, and after."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from lightning.pytorch.accelerators import (
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
)
from omegaconf import DictConfig, OmegaConf

from pft_lightning import keys
from pft_lightning.data.store import choose_cache
from pft_lightning.errors import ConfigError, DivergenceError
from pft_lightning.losses.properties import Property
from pft_lightning.options.check import check_options
from pft_lightning.options.presets import with_rate
from pft_lightning.options.schema import Train
from pft_lightning.runs.anchor import check_anchor
from pft_lightning.runs.kinds import KINDS, find_kind
from pft_lightning.training.balance import LossBalance, loss_weights
from pft_lightning.training.validation import METRICS


_ACCELERATORS = {"cpu": CPUAccelerator, "cuda": CUDAAccelerator, "mps": MPSAccelerator}
_TERMS = (
    *("loss", "energy", "forces", "stress"),
    *("hvp", "third_order", "constants", "moduli"),
    *get_args(Property),
)


def check_trust(config: DictConfig, overrides: Sequence[str]) -> None:
    """Let only the command line say that a configuration is trusted.

    Raises:
        ConfigError: A file says so.
    """
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    if config.trust_config and "trust_config" not in given:
        raise ConfigError(
            "trust_config=true: a file cannot vouch for itself; give it on the command "
            "line."
        )


def check_train(config: DictConfig) -> DictConfig:
    """Check the options of ``pft-train``, see ``check_options``.

    Returns:
        A copy with the learning rate of the adaptation where none was given.

    Raises:
        ConfigError: One of them, or a combination, cannot be.
    """
    supplies = find_kind(config).supplies
    config = check_options(
        config, Train, not_needed=supplies, trust=config.trust_config
    )
    phonons = "data.phonons.train"
    if phonons not in supplies and OmegaConf.select(config, phonons) is None:
        others = [option for option, kind in KINDS.items() if phonons in kind.supplies]
        raise ConfigError(
            f"{phonons}=null; expected a path, or a list. Only {' and '.join(others)} "
            "trains without phonons."
        )
    choose_cache(OmegaConf.select(config, "data.cache_dir"), "data.cache_dir")
    _check_accelerator(config.trainer.accelerator)
    _check_balance(config)
    check_anchor(config)
    return with_rate(config)


def _check_balance(config: DictConfig) -> None:
    balance = LossBalance(loss_weights(config.loss))
    if balance and config.get("mace_config"):
        raise ConfigError(
            "loss.phonon.*=auto: the loss of the frames is MACE's with mace_config, "
            "and no other weights are found beside it. Give numbers."
        )
    if balance and config.loss.hvp_schedule != "constant":
        raise ConfigError(
            f"loss.hvp_schedule={config.loss.hvp_schedule}: weights that set "
            "themselves (auto) follow no schedule. Give numbers, or "
            "loss.hvp_schedule=constant."
        )


def _check_accelerator(name: str) -> None:
    there = [
        kind
        for kind, accelerator in _ACCELERATORS.items()
        if accelerator.is_available()
    ]
    # Lightning knows more kinds than those of torch, and says so itself.
    known = name in _ACCELERATORS or name == "gpu"
    if known and name not in there and (name != "gpu" or there == ["cpu"]):
        raise ConfigError(
            f"trainer.accelerator={name}: there is none here; expected auto, or one of "
            f"those that are here: {', '.join(there)}."
        )


def check_monitors(callbacks: DictConfig, known: Collection[str]) -> None:
    """Refuse callbacks that watch what is never logged; Lightning does so late.

    Args:
        callbacks: of the configuration.
        known: metrics of a validation that was done.

    Raises:
        ConfigError: names the metric and those that there are.
    """
    sources = (keys.PHONON, keys.UPSTREAM, f"{keys.PHONON}_{keys.UPSTREAM}")
    steps = [f"train/{source}_{term}" for source in sources for term in _TERMS]
    accepted = [*known, *steps, "train/penalty", "train/memory_splits"]
    for name, callback in callbacks.items():
        monitor = (callback or {}).get("monitor")
        if monitor is not None and monitor not in accepted:
            raise ConfigError(
                f"callbacks.{name!s}.monitor={monitor}; nothing of this name is "
                f"logged. Expected one of {', '.join(known)}, or a loss, e.g. "
                f"{steps[0]}."
            )


def check_finite(metrics: Mapping[str, float | None], whose: str) -> None:
    """Refuse weights whose validation errors are NaN or infinite.

    Args:
        metrics: of a validation.
        whose: weights they are of, for the message.

    Raises:
        DivergenceError: names the errors.
    """
    wrong = [
        f"{name} is {value}"
        for name in METRICS
        if (value := metrics.get(name)) is not None and not math.isfinite(value)
    ]
    if wrong:
        raise DivergenceError(
            f"validation of {whose}: {', '.join(wrong)}. No model is written; the "
            "last checkpoint is kept. Look at the reference values, or lower "
            "optimizer.lr."
        )
