"""``pft-evaluate``: phonons, thermal properties and forgetting against DFT."""

from __future__ import annotations

import dataclasses

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from pft_lightning.cli.command import command
from pft_lightning.evaluation.protocols import PROTOCOLS
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.runs.memory import keep_freed_memory


# The protocols are defined once, in Python; Hydra gets them as a group.
for _name, _protocol in PROTOCOLS.items():
    ConfigStore.instance().store(
        group="protocol",
        name=_name,
        node=OmegaConf.create(
            {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(_protocol).items()
            }
        ),
        provider="pft_lightning",
    )
# Labels are the user's own: keys may be added without a "+" in front.
ConfigStore.instance().store(
    group="compare",
    name="none",
    node=OmegaConf.create({}, flags={"struct": False}),
    provider="pft_lightning",
)


@command(
    "evaluate",
    after_stop="what is finished lies in the folder of the evaluation; the same "
    "command goes on from there.",
)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-evaluate``."""
    keep_freed_memory()
    check_evaluation(evaluate(config).summary)
