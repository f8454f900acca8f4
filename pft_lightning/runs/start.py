"""What every task of ``pft-evaluate`` begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.potentials import load_potentials
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.functionals import compare_functionals


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Options and potentials of an evaluation.

    Attributes:
        values: of the configuration, as plain values.
        potentials: by label, on the device of this process.
        common: keywords of every evaluation.
    """

    values: Any
    potentials: Mapping[str, Potential]
    common: dict[str, Any]


def begin(
    config: DictConfig,
    fabric: Fabric,
    folder: RunFolder,
    potentials: Mapping[str, Potential] | None = None,
) -> Start:
    """Load the potentials, and write down what was asked for.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the materials.
        folder: to write.
        potentials: by label; None loads those that the configuration names.

    Raises:
        PFTError: a potential cannot be used.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    if potentials is None:
        potentials = load_potentials(config, fabric.device)
    if fabric.is_global_zero:
        folder.write_start(config)
    common = {
        "options": PhononReadOptions(**values["options"]),
        "max_atoms": config.max_atoms,
        "noted": _note(config, potentials),
        "progress": config.progress,
    }
    return Start(values, potentials, common)


def _note(config: DictConfig, potentials: Mapping[str, Potential]) -> dict[str, Any]:
    functionals = compare_functionals(config, potentials)
    told = {"functionals": functionals} if functionals else {}
    return {"versions": collect_versions(), **told}
