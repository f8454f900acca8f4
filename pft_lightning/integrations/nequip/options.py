"""Blocks of a configuration that NequIP hands on as they are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.errors import ConfigError


# The oldest NequIP whose training modules and checkpoints are those expected here.
OLDEST = (0, 19, 1)


def check_version() -> None:
    """Refuse a NequIP that the Hessian term was not written for.

    Raises:
        ConfigError: It is older.
    """
    found = metadata.version("nequip")
    numbers = tuple(int(n) for n in found.split(".")[:3] if n.isdigit())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"nequip {found} is installed; phonons in nequip-train need {oldest} or "
            f'later: pip install "nequip>={oldest}". Its checkpoints of older versions '
            "do not load there: package them with the old one (nequip-package) and "
            "start from the package."
        )


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Refuse what is no whole number.

    Raises:
        ConfigError: It is none, or too small.
    """
    if not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{name} is {value!r}; expected a whole number of at least {least}."
        )


def check_spec(name: str, spec: Any) -> None:
    """Refuse what cannot say where phonons are.

    Raises:
        ConfigError: It is no path and no list of paths.
    """
    paths = spec if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
    if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise ConfigError(
            f"{name} is {spec!r}; expected a file, folder, glob, store or a list of "
            "them."
        )


def build_options(
    target: Callable[..., Any], block: Mapping[str, Any], *, name: str
) -> dict[str, Any]:
    """Make the arguments of ``target`` from a block; entries with ``_target_`` too.

    Args:
        target: Whose arguments they are.
        block: As in the configuration.
        name: Of the block, for messages.

    Raises:
        ConfigError: An option is unknown, or a required one is missing.
    """
    content: Any = block
    if isinstance(block, DictConfig):
        content = OmegaConf.to_container(block, resolve=True)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{name} is {content!r}; expected a block of options.")
    accepted = inspect.signature(target).parameters
    if unknown := sorted(set(content) - set(accepted)):
        raise ConfigError(
            f"{name} has unknown options: {', '.join(unknown)}. Known are "
            f"{', '.join(accepted)}."
        )
    required = [k for k, v in accepted.items() if v.default is inspect.Parameter.empty]
    if missing := [key for key in required if key not in content]:
        raise ConfigError(f"{name} lacks {', '.join(missing)}, which has no default.")
    return {
        key: instantiate(value)
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for key, value in content.items()
    }


def read_options(
    block: PhononReadOptions | Mapping[str, Any] | None,
) -> PhononReadOptions:
    """Make options of reading from a block without ``_target_``.

    Args:
        block: as in the configuration; None for the defaults.

    Raises:
        ConfigError: An option is unknown.
    """
    if isinstance(block, PhononReadOptions):
        return block
    return PhononReadOptions(
        **build_options(PhononReadOptions, block or {}, name="options")
    )
