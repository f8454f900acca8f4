"""Potentials to be evaluated: model files, and calculators of the user's."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Collection
from typing import Any

import torch
from ase.calculators.calculator import BaseCalculator
from omegaconf import DictConfig

from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.force_constants import Potential


_FACTORY = re.compile(r"\w+(\.\w+)*:\w+")


def load_potentials(
    config: DictConfig, device: str | torch.device
) -> dict[str, Potential]:
    """Load the potentials of a configuration: the compared ones first, by label.

    Raises:
        ConfigError: A label occurs twice, or an entry names no potential, or two.
        CheckpointError: A file cannot be read.
    """
    found = load_compared(config, device, taken=(config.label,))
    main = {
        "model": config.model.backend,
        "checkpoint": config.model.checkpoint,
        "calculator": config.calculator,
        "dtype": config.model.dtype,
        "head": config.model.head,
        "trust": config.model.trust,
    }
    found[config.label] = _load("model", main, device)
    return found


def load_compared(
    config: DictConfig, device: str | torch.device, *, taken: Collection[str]
) -> dict[str, Potential]:
    """Load the potentials of ``compare``, by label.

    Args:
        config: of ``pft-evaluate``.
        device: to put them on.
        taken: labels of others.

    Raises:
        ConfigError: A label is taken, or an entry names no potential, or two.
        CheckpointError: A file cannot be read.
    """
    found: dict[str, Potential] = {}
    for label, entry in config.compare.items():
        if label in taken:
            raise ConfigError(
                f"label={label!r} is also a label of compare; give it another one."
            )
        found[str(label)] = _load(f"compare.{label}", dict(entry), device)
    return found


def _load(where: str, entry: dict[str, Any], device: str | torch.device) -> Potential:
    factory, checkpoint = entry.get("calculator"), entry.get("checkpoint")
    if (factory is None) == (checkpoint is None):
        named = "calculator" if where == "model" else f"{where}.calculator"
        raise ConfigError(
            f"{where}: give either {where}.checkpoint=FILE or "
            f"{named}=module:factory, and not both."
        )
    if factory is not None:
        return make_calculator(
            str(factory), "calculator" if where == "model" else f"{where}.calculator"
        )
    backend = entry.get("model")
    # The default group of models leaves the backend to the file.
    return load_model(
        str(checkpoint),
        backend=None if backend == "auto" else backend,
        dtype=entry.get("dtype") or "float64",
        head=entry.get("head"),
        trust=entry.get("trust", False),
        device=device,
    )


def make_calculator(spec: str, option: str = "calculator") -> BaseCalculator:
    """Make an ASE calculator with a function or class of the user's.

    Args:
        spec: ``module:factory``; the module may lie in the working directory, and the
            factory is called without arguments.
        option: that names it, for messages.

    Raises:
        ConfigError: It cannot be imported, or makes something else.
    """
    if not _FACTORY.fullmatch(spec):
        raise ConfigError(
            f"{option}={spec!r}; expected module:factory, e.g. "
            "my_models:make_calculator."
        )
    module_name, _, factory_name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{option}={spec!r} cannot be imported ({error}). Is the module in "
            "the working directory or installed?"
        ) from error
    except Exception as error:
        raise ConfigError(_failed(f"{option}={spec!r}: the module", error)) from error
    try:
        calculator = factory()
    except Exception as error:
        raise ConfigError(_failed(f"{option}={spec!r}: calling", error)) from error
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(
            f"{option}={spec!r} made a {type(calculator).__name__}; expected an "
            "ASE calculator."
        )
    return calculator


def _failed(what: str, error: Exception) -> str:
    return (
        f"{what} fails with {type(error).__name__}: {error}. PFT_TRACEBACK=1 shows "
        "where."
    )
