"""``pft-evaluate task=trade_off``: mixes of a base model and what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from pft_lightning.adaptation.mixing import name_share
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.potentials import load_compared
from pft_lightning.evaluation.runner import Evaluation
from pft_lightning.evaluation.trade_off import describe_trade_off
from pft_lightning.runs.origins import find_origin


# Evaluated unless others are given.
_MIXES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, eq=False)
class Mixes:
    """What is evaluated.

    Attributes:
        potentials: by label, the base model first, then those that are compared, then
            mixes up to the fine-tuned model.
        shares: of the mixes, by label: how far they are from the base model.
        upstream_heads: of the mixes, by label, where upstream frames have a head of
            their own.
    """

    potentials: dict[str, Potential]
    shares: dict[str, float]
    upstream_heads: dict[str, str]


def check_trade_off(config: DictConfig) -> None:
    """Refuse what has no meaning for mixes, and options of mixes without them.

    Args:
        config: of ``pft-evaluate``, as checked.

    Raises:
        ConfigError: says what to give or to leave out.
    """
    if config.task != "trade_off":
        for name in ("run", "base", "mix"):
            if config[name] is not None:
                raise ConfigError(
                    f"{name}={config[name]}: is for task=trade_off, which evaluates "
                    "mixes of fine-tuned weights with their base model. Add that, or "
                    "leave it out; one potential is model.checkpoint=FILE."
                )
        return
    if config.calculator is not None:
        raise ConfigError(
            f"calculator={config.calculator}: has no weights that task=trade_off could "
            "mix. Compare it: compare.LABEL.calculator=..."
        )
    if (config.run is None) == (config.model.checkpoint is None):
        raise ConfigError(
            "task=trade_off: give either run=FOLDER, of a pft-train run, or two files, "
            "model.checkpoint=TUNED and base=BASE."
        )
    if config.upstream is None:
        raise ConfigError(
            "task=trade_off needs upstream=PATH: frames with energies, forces and "
            "stresses of what the base model knew, to measure forgetting."
        )


def load_mixes(config: DictConfig, device: str | torch.device) -> Mixes:
    """The potentials at both ends and at the mixes between them, and compared ones.

    Args:
        config: of ``pft-evaluate``, as checked.
        device: to put them on.

    Raises:
        PFTError: there is no such run or file, or its two ends cannot be mixed.
    """
    given = config.mix
    asked = _MIXES if given is None else given if OmegaConf.is_list(given) else [given]
    mixes = {
        f"mix_{name_share(share)}": share
        for share in sorted({0.0, 1.0, *map(float, asked)})
    }
    compared = load_compared(config, device, taken=mixes)
    potential = find_origin(config).load_potential(with_base=True)
    base, *others = (
        (label, potential.mixed(share).model.to(device))
        for label, share in mixes.items()
    )
    head = potential.upstream_head
    return Mixes(
        potentials=dict((base, *compared.items(), *others)),
        shares=mixes,
        upstream_heads={} if head is None else dict.fromkeys(mixes, head),
    )


def add_trade_off(
    evaluation: Evaluation, mixes: Mapping[str, float], folder: Path
) -> None:
    """Add the curve of gain against forgetting to an evaluation and to its folder.

    Args:
        evaluation: of all mixes.
        mixes: by label.
        folder: of the evaluation.
    """
    summary = evaluation.summary
    summary["trade_off"] = describe_trade_off(
        evaluation.rows, summary["forgetting"], mixes
    )
    EvaluationFolder(folder).write_totals(evaluation.rows, summary)
