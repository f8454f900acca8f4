"""What goes with ``callbacks.anchor``, and what a resumed run cannot change of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pft_lightning.errors import CheckpointError, ConfigError


# What the information that a checkpoint holds was measured with.
_MEASURED_WITH = ("n_frames", "max_atoms", "seed", "base")


def check_anchor(config: DictConfig) -> None:
    """Refuse to hold weights that nothing can be measured of.

    Raises:
        ConfigError: There are no upstream frames.
    """
    strength = anchor_of(config).get("strength")
    frames = OmegaConf.select(config, "data.upstream.train")
    if strength and not config.get("mace_config"):
        given = frames or OmegaConf.select(config, "replay.n_frames")
        if not given:
            raise ConfigError(
                f"callbacks.anchor.strength={strength:g}: what energies and forces "
                "rest on is measured on upstream frames, and there are none. Set "
                "data.upstream.train, or replay.n_frames=50 for frames that the base "
                "model labels."
            )


def check_resumed_anchor(started: DictConfig, config: DictConfig, run: Path) -> None:
    """Refuse to hold weights otherwise than a run did from its start.

    Args:
        started: Configuration of the run, as it is in its folder.
        config: With which it is to be continued.
        run: Its folder.

    Raises:
        CheckpointError: The run has no base weights, or others.
    """
    before, now = anchor_of(started), anchor_of(config)
    if not now.get("strength"):
        return
    if not before.get("strength"):
        if now.get("base"):
            return
        raise CheckpointError(
            f"callbacks.anchor.strength={now['strength']:g}: the run in {run} began "
            "without it and does not hold its base weights. Name their file with "
            "callbacks.anchor.base=..., or start another run."
        )
    for name in _MEASURED_WITH:
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"callbacks.anchor.{name} is {now.get(name)!r}, but the run in {run} "
                f"was started with {before.get(name)!r}. Continue it with that, or "
                "start another run in another folder with hydra.run.dir=..."
            )


def anchor_of(config: DictConfig) -> dict[str, Any]:
    """Options of the callback; empty where a configuration has none."""
    node = OmegaConf.select(config, "callbacks.anchor")
    found: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    return found
