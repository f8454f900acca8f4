"""``pft-evaluate task=elastic``, from its configuration to its files."""

from __future__ import annotations

from lightning.fabric import Fabric
from omegaconf import DictConfig

from pft_lightning.evaluation.elastic_runner import evaluate_elastic
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.plots.elastic_report import write_elastic_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_elastic


def compute_elastic(config: DictConfig, fabric: Fabric, folder: RunFolder) -> Evaluated:
    """Compute elastic constants, compare moduli, report and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    start = begin(config, fabric, folder)
    found = evaluate_elastic(
        start.potentials,
        start.values["structures"],
        folder.path,
        reference=start.values["reference"],
        protocol=Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        print_elastic(found, write_elastic_report(folder.path))
    return found
