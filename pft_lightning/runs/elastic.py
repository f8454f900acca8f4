"""``pft-evaluate task=elastic``, from its configuration to its files."""

from __future__ import annotations

from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.evaluation.elastic_runner import ElasticEvaluation, evaluate_elastic
from pft_lightning.evaluation.potentials import load_potentials
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.plots.page import remove_report
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.tables import print_elastic


def compute_elastic(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> ElasticEvaluation:
    """Compute elastic constants, compare moduli and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    potentials = load_potentials(config, fabric.device)
    if fabric.is_global_zero:
        folder.write_start(config)
    found = evaluate_elastic(
        potentials,
        values["structures"],
        folder.path,
        reference=values["reference"],
        protocol=Protocol(**values["protocol"]),
        options=PhononReadOptions(**values["options"]),
        max_atoms=config.max_atoms,
        engine=config.engine,
        versions=collect_versions(),
        progress=config.progress,
    )
    if fabric.is_global_zero:
        remove_report(folder.path)  # of another task: it speaks of other results
        print_elastic(found)
    return found
