"""What a run keeps from its start to its end, however often it is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pft_lightning.errors import CheckpointError
from pft_lightning.runs.anchor import check_resumed_anchor


_WHOLE = ("adaptation", "model.head", "replay.n_frames")
# Each of their values: a checkpoint brings back rates, decays and patience, which would
# silently win over others.
_EACH = ("optimizer", "scheduler")
# It takes a longer or another curve at the step of the checkpoint.
_OBEYS = "pft_lightning.training.schedules.Cosine"

# What runs of earlier versions call by another name, or do not name.
_RENAMED = {"torch.optim.lr_scheduler.CosineAnnealingLR": _OBEYS}
_UNNAMED = {"replay.n_frames": 0}


def check_kept(
    started: DictConfig, config: DictConfig, run: Path, own: Sequence[str] = ()
) -> None:
    """Refuse to continue a run with what it was not started with.

    Args:
        started: configuration of the run, as it is in its folder.
        config: with which it is to be continued.
        run: its folder.
        own: further options that a kind of run cannot change.

    Raises:
        CheckpointError: adaptation, optimiser, schedule or replay are others.
    """
    for name in (*_WHOLE, *_options(started, config), *own):
        before, now = (_select(one, name) for one in (started, config))
        if name in own and before is None:
            continue  # of an earlier version of what trains, which did not name it
        if now not in (before, _renamed(before)):
            raise CheckpointError(
                f"{name} is {now!r}, but the run in {run} was started with "
                f"{before!r}. Continue it with that, or start another run in "
                "another folder with hydra.run.dir=..."
            )
    check_resumed_anchor(started, config, run)


def _options(started: DictConfig, config: DictConfig) -> Iterator[str]:
    """Names of the options of optimiser and schedule that cannot be others."""
    for part in _EACH:
        yield (kind := f"{part}._target_")
        if _select(config, kind) != _OBEYS:
            before, now = (_select(one, part) or {} for one in (started, config))
            yield from (f"{part}.{name}" for name in {**before, **now})


def _select(config: DictConfig, name: str) -> Any:
    value = OmegaConf.select(config, name, default=_UNNAMED.get(name))
    return (
        OmegaConf.to_container(value, resolve=True)
        if OmegaConf.is_config(value)
        else value
    )


def _renamed(value: Any) -> Any:
    return _RENAMED.get(value, value) if isinstance(value, str) else value
