"""Objects of a configuration, whose files are data: only listed classes are made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf

from pft_lightning.adaptation import Adaptation
from pft_lightning.data.datamodule import (
    ElasticSource,
    MeasuredSource,
    PhononDataModule,
    PhononSource,
    UpstreamSource,
)
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.errors import ConfigError, PFTError
from pft_lightning.physics.probes import Probe


# Only what lies in these is imported: importing runs code too.
PACKAGES = (
    "pft_lightning",
    "torch.optim",
    "torch.nn",
    "lightning",
    "nequip",
    "mace",
)
# Only such classes are made. The packages also hold functions and classes that run or
# unpickle what their arguments name.
KINDS = (
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    Callback,
    Logger,
    Trainer,
    Strategy,
    Profiler,
    Precision,
    CheckpointIO,
    ClusterEnvironment,
    Adaptation,
    Probe,
    PhononDataModule,
    PhononSource,
    UpstreamSource,
    ElasticSource,
    MeasuredSource,
    PhononReadOptions,
)

# It would print what is raised as well.
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)

_ACCEPTED = (
    f"optimisers, schedulers, callbacks, loggers, strategies and the like of "
    f"{', '.join(PACKAGES)}"
)


def instantiate(
    config: DictConfig | None, *, where: str, trust: bool = False, **values: Any
) -> Any:
    """Make what a node of a configuration describes, and what is nested in it.

    Args:
        config: With ``_target_``; nothing is made of None.
        where: Name of the node, for messages.
        trust: Make whatever it names, which can run any code.
        values: Arguments that replace those of the configuration.

    Raises:
        ConfigError: A ``_target_`` is not of the classes that are made, or cannot be
            made of these values.
        PFTError: Raised by what is made.
    """
    if config is None:
        return None
    # Resolved once: what is checked is what is made.
    node = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not trust:
        check_targets(node, where)
    try:
        return hydra.utils.instantiate(node, **values)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            if isinstance(cause, (PFTError, OSError, MemoryError)):
                raise cause from error
        target = node.get("_target_") if isinstance(node, dict) else None
        raise ConfigError(
            f"{where}: {target} cannot be made of these values "
            f"({type(cause).__name__}: {str(cause).strip()})."
        ) from error


def check_targets(node: Any, where: str) -> None:
    """Refuse a tree of plain values that names anything but the classes of ``KINDS``.

    Raises:
        ConfigError: Names the entry, what it asks for and what is accepted.
    """
    check_data(node, where)  # what a reference becomes would be made unseen
    for name, value in _leaves(node, where):
        if name.endswith("._target_"):
            find_class(value, name)


def check_data(node: Any, where: str) -> None:
    """Refuse references to other values, the environment or files.

    Raises:
        ConfigError: Names the entry.
    """
    for name, value in _leaves(node, where):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(
                f"{name}={value}: refers to another value; the value itself is "
                "expected here."
            )


def find_class(target: Any, where: str) -> type:
    """The class that a ``_target_`` names.

    Args:
        target: Dotted path.
        where: Name of the entry, for messages.

    Raises:
        ConfigError: It is not one of those that are made without trust.
    """
    known = isinstance(target, str) and target.startswith(
        tuple(f"{package}." for package in PACKAGES)
    )
    if not known:
        raise ConfigError(_refusal(where, target))
    try:
        found = hydra.utils.get_class(target)
    except Exception as error:
        raise ConfigError(
            f"{where}={target}: there is no such class "
            f"({' '.join(str(error).split())}). Accepted are {_ACCEPTED}."
        ) from error
    # A path can lead through a module to what the module has imported.
    inside = f"{found.__module__}.".startswith(tuple(f"{p}." for p in PACKAGES))
    if not (inside and issubclass(found, KINDS)):
        raise ConfigError(_refusal(where, target))
    return found


def _refusal(where: str, target: Any) -> str:
    return (
        f"{where}={target}: is not made, since that could run any code. Accepted are "
        f"{_ACCEPTED}. If you trust it and the configuration that names it, add "
        "trust_config=true to the command."
    )


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Name and value of every entry of nested dicts and lists that is neither."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{name}[{index}]")
    else:
        yield name, node
