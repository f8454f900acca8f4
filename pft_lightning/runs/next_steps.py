"""The commands that one types after a training."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

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
        Commands of a shell by what they are for; none where no phonons are kept back
        or the result is no other weights of the same network as the base model.
    """
    base = config.model.get("checkpoint")
    phonons = OmegaConf.select(config, "data.phonons.val")
    adaptation = str(config.adaptation.get("_target_")).rpartition(".")[2]
    if base is None or phonons is None or adaptation not in _SAME_NETWORK:
        return {}
    upstream = OmegaConf.select(config, "data.upstream.val")
    head = config.model.get("head")
    files = {"phonons": phonons, "upstream": upstream}
    compared = {
        "model.checkpoint": result,
        "model.head": head,
        **files,
        "compare.base.checkpoint": base,
        "compare.base.head": head,
    }
    found = {"phonons before and after": f"pft-evaluate {_words(compared)}"}
    if upstream is not None:
        mixed = _words({"model.checkpoint": result, "base": base, **files})
        found["less gain, less forgetting"] = f"pft-evaluate task=trade_off {mixed}"
    return found


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
