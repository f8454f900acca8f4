"""What ``pft-prepare`` can make, by the name of the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.backends.registry import load_model
from pft_lightning.data.crystals import read_structures, read_supercells
from pft_lightning.data.sources import find_sources
from pft_lightning.data.store import PrepareReport, build_store
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.files import check_overwrites_none
from pft_lightning.preparation.distill import distill
from pft_lightning.preparation.pseudolabel import pseudolabel
from pft_lightning.preparation.rattle import RattleOptions, rattle
from pft_lightning.preparation.soft_modes import soft_mode_frames
from pft_lightning.preparation.structures import XYZ_SUFFIXES, write_structures


def prepare_store(config: DictConfig) -> PrepareReport:
    """Build or update a store, and print its report."""
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


def prepare_rattled(config: DictConfig) -> None:
    """Write structures around given crystals."""
    values: Any = OmegaConf.to_container(config.rattle, resolve=True)
    limits: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    options = RattleOptions(**limits)
    calculator = Calculator(_load(config)) if options.n_path else None
    crystals = list(read_structures(_structures(config)))
    structures = [
        made
        for index, crystal in enumerate(crystals)
        for made in rattle(crystal, options, index=index, calculator=calculator)
    ]
    write_structures(structures, Path(config.out))
    print(f"{config.out}: {len(structures)} structures around {len(crystals)} crystals")


def prepare_pseudolabels(config: DictConfig) -> None:
    """Write structures with the energies, forces and stresses of a model."""
    out = Path(config.out)
    if out.suffix not in XYZ_SUFFIXES:
        raise ConfigError(
            f"out is {out}; labels are written as extended XYZ: a name ending in "
            f"{' or '.join(XYZ_SUFFIXES)}."
        )
    model = _load(config)
    structures = list(read_structures(_structures(config)))
    labels = pseudolabel(model, structures)
    progress = tqdm(labels, "labelling", len(structures), leave=False, disable=None)
    labelled = list(progress)
    write_structures(labelled, out)
    print(f"{out}: {len(labelled)} structures labelled by {config.model.checkpoint}")


def prepare_teacher_phonons(config: DictConfig) -> None:
    """Write the force constants of a model in given crystals."""
    options: Any = OmegaConf.to_container(config.distill, resolve=True)
    supercell = SupercellOptions(
        **{field.name: options.pop(field.name) for field in fields(SupercellOptions)}
    )
    supercells = read_supercells(_structures(config), supercell)
    computed = distill(_load(config), supercells, Path(config.out), **options)
    print(
        f"{config.out}: force constants of {computed} materials computed by "
        f"{config.model.checkpoint}"
    )


def prepare_soft_modes(config: DictConfig) -> None:
    """Write structures along the soft modes of a model, for DFT."""
    options: Any = OmegaConf.to_container(config.soft_modes, resolve=True)
    supercell = SupercellOptions(
        **{field.name: options.pop(field.name) for field in fields(SupercellOptions)}
    )
    supercells = read_supercells(_structures(config), supercell)
    frames, n_crystals = soft_mode_frames(
        _load(config), supercells, SoftModeOptions(**options)
    )
    write_structures(frames, Path(config.out))
    print(
        f"{config.out}: {len(frames)} structures along soft modes of {n_crystals} "
        "crystals"
    )


def _load(config: DictConfig) -> EnergyModel:
    if config.model.checkpoint is None:
        raise ConfigError(f"task={config.task} needs a model: model.checkpoint=...")
    return load_model(
        config.model.checkpoint,
        backend=config.model.backend,
        dtype="float64",
        device=config.model.device,
        head=config.model.head,
        trust=config.model.trust,
    )


def _structures(config: DictConfig) -> Any:
    if config.structures is None:
        raise ConfigError(
            f"task={config.task} needs structures=...: files that ASE reads, or "
            "phonopy yaml files."
        )
    given = config.structures
    spec: Any = given if isinstance(given, str) else OmegaConf.to_container(given)
    check_overwrites_none(Path(config.out), find_sources(spec, kind="structure").paths)
    return spec


TASKS: dict[str, Callable[[DictConfig], PrepareReport | None]] = {
    "store": prepare_store,
    "rattle": prepare_rattled,
    "pseudolabel": prepare_pseudolabels,
    "distill": prepare_teacher_phonons,
    "soft_modes": prepare_soft_modes,
}
