"""The commands that one types after a training."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.settings import MeasuredReading
from pft_lightning.options.remedies import quote


# Adaptations whose result has the heads of the base model, and comes from its weights.
_SAME_NETWORK = ("FullFineTuning", "LoRA", "Delta", "Freeze")

# What needs no quotes in Hydra's grammar.
_PLAIN = re.compile(r"[\w./@:+-]+", re.ASCII)


def next_commands(config: DictConfig, result: Path) -> dict[str, str]:
    """Commands that show what a run gained, and choose how much of it to keep.

    Args:
        config: of the run.
        result: the fine-tuned potential.

    Returns:
        Commands of a shell by what they are for; none where nothing is kept back or
        measured, or the result is no other weights of the same network as the base
        model.
    """
    base = config.model.get("checkpoint")
    adaptation = str(config.adaptation.get("_target_")).rpartition(".")[2]
    if base is None or adaptation not in _SAME_NETWORK:
        return {}
    head = config.model.get("head")
    models = {"model.checkpoint": result, "model.head": head}
    before = {"compare.base.checkpoint": base, "compare.base.head": head}
    phonons = OmegaConf.select(config, "data.phonons.val")
    upstream = OmegaConf.select(config, "data.upstream.val")
    files = {"phonons": phonons, "upstream": upstream}
    found = {}
    if phonons is not None:
        compared = _words({**models, **files, **before})
        found["phonons before and after"] = f"pft-evaluate {compared}"
    measured = _measured_values(config)
    if measured:
        compared = _words({**models, **measured, **before})
        found["measured values before and after"] = (
            f"pft-evaluate task=measured {compared}"
        )
    if phonons is not None and upstream is not None:
        mixed = _words({**models, "base": base, **files})
        found["less gain, less forgetting"] = f"pft-evaluate task=trade_off {mixed}"
    return found


def _measured_values(config: DictConfig) -> dict[str, object]:
    """Options of an evaluation that reads measured values as the run does."""
    source = OmegaConf.select(config, "data.measured")
    values = source and (source.get("val") or source.get("train"))
    if not values:
        return {}
    changed = {
        f"measured.{field.name}": source.get(field.name)
        for field in fields(MeasuredReading)
        if source.get(field.name) != field.default
    }
    relaxed = {"protocol": "mdr_analytic"} if source.get("relax") else {}
    return {
        "measured.files": values,
        "structures": source.get("structures"),
        **changed,
        **relaxed,
    }


def _words(values: dict[str, object]) -> str:
    return " ".join(
        shlex.quote(_override(name, value))
        for name, value in values.items()
        if value is not None
    )


def _override(name: str, value: object) -> str:
    if OmegaConf.is_list(value):
        inner = (_override("", entry).removeprefix("=") for entry in value)  # type: ignore[attr-defined]
        return f"{name}=[{','.join(inner)}]"
    text = str(value)
    return f"{name}={text}" if _PLAIN.fullmatch(text) else quote(name, text)
