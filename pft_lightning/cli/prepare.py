"""``pft-prepare``: read phonon calculations into a store."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from pft_lightning.cli.common import report_errors
from pft_lightning.data.store import PrepareReport, build_store


def prepare(config: DictConfig) -> PrepareReport:
    """Build or update a store from a composed configuration, and print its report.

    Raises:
        DataFormatError: No source was found, or none could be read.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    report = build_store(
        values["phonons"],
        values["out"],
        cutoff=values["cutoff"],
        n_workers=values["n_workers"],
        **values["options"],
    )
    print(f"{values['out']}: {report.summary()}")
    return report


@hydra.main(
    version_base="1.3", config_path="pkg://pft_lightning.conf", config_name="prepare"
)
@report_errors
def main(config: DictConfig) -> None:
    """Entry point of ``pft-prepare``."""
    prepare(config)
