"""``pft-evaluate task=conductivity``, from its configuration to its files."""

from __future__ import annotations

from typing import Final

from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.third_order import check_phono3py
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.conductivity.protocol import (
    CONDUCTIVITY_PROTOCOLS,
    ConductivityProtocol,
)
from pft_lightning.evaluation.conductivity.runner import (
    ConductivityEvaluation,
    evaluate_conductivity,
)
from pft_lightning.evaluation.conductivity.structures import ConductivityOptions
from pft_lightning.evaluation.protocols import PROTOCOLS
from pft_lightning.options.conductivity import ConductivityProtocolOptions
from pft_lightning.options.schema import Evaluate
from pft_lightning.plots.conductivity_report import write_conductivity_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_conductivity


_TASK: Final = "conductivity"
_REFERENCED: Final = ("elastic", "soft_modes", "qha")

# An option that protocols of conductivities have, and those of phonons do not.
_TELLING: Final = "transport_type"


class EvaluateConductivity(Evaluate):
    """``pft-evaluate task=conductivity``."""

    protocol: ConductivityProtocolOptions  # type: ignore[assignment]


def check_protocol(config: DictConfig) -> None:
    """Refuse a protocol of phonons for conductivities, and the reverse.

    Args:
        config: of ``pft-evaluate``, as composed.

    Raises:
        ConfigError: says which protocols there are for the task.
    """
    protocol = config.get("protocol")
    if not OmegaConf.is_dict(protocol):
        return
    is_of_task = config.get("task") == _TASK
    if is_of_task == (_TELLING in protocol):
        return
    names = CONDUCTIVITY_PROTOCOLS if is_of_task else PROTOCOLS
    raise ConfigError(
        f"protocol={protocol.get('name')}: task={config.get('task')} takes "
        f"{' or '.join(f'protocol={name}' for name in names)}. Choose one, and its "
        "options after it (protocol.NAME=VALUE)."
    )


def check_conductivity(config: DictConfig) -> None:
    """Refuse options of conductivities without them, and a missing phono3py.

    Args:
        config: of ``pft-evaluate``, as checked.

    Raises:
        ConfigError: a reference for another task.
        BackendUnavailableError: phono3py is not there, or too old.
    """
    if config.task == _TASK:
        check_phono3py()
    elif config.reference is not None and config.task not in _REFERENCED:
        raise ConfigError(
            f"reference={config.reference}: is for task=conductivity, whose scores it "
            "is needed for, and task=elastic, soft_modes or qha. Add one of them, or "
            "leave it out."
        )


def compute_conductivity(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> ConductivityEvaluation:
    """Compute and score conductivities, report on them and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    start = begin(config, fabric, folder)
    found = evaluate_conductivity(
        start.potentials,
        start.values["structures"],
        folder.path,
        reference=start.values["reference"],
        protocol=ConductivityProtocol(**start.values["protocol"]),
        supercells=ConductivityOptions(**start.values["conductivity"]),
        **start.common,
    )
    if fabric.is_global_zero:
        report = write_conductivity_report(folder.path)
        print_conductivity(found, report, start.values["reference"])
    return found
