"""``pft-evaluate``: phonons, thermal properties and forgetting against DFT."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from datetime import timedelta
from typing import Any

import hydra
import torch
from ase.calculators.calculator import BaseCalculator
from hydra.core.config_store import ConfigStore
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import BACKENDS, load_model
from pft_lightning.cli.common import report_errors
from pft_lightning.cli.memory import keep_freed_memory
from pft_lightning.cli.run_folder import RunFolder, collect_versions
from pft_lightning.cli.tables import print_evaluation
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol
from pft_lightning.evaluation.runner import Evaluation, evaluate_phonons
from pft_lightning.plots.report import write_report


# Ranks finish at different times, and one material can take hours.
_TIMEOUT = timedelta(days=30)

_COMPARE_KEYS = ("model", "checkpoint", "calculator", "dtype", "head")

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


def load_potentials(
    config: DictConfig, device: str | torch.device
) -> dict[str, Potential]:
    """Load the potentials of a configuration: the compared ones first, by label.

    Raises:
        ConfigError: A label occurs twice, or an entry has unknown keys.
        CheckpointError: A file cannot be read.
    """
    found: dict[str, Potential] = {}
    for label, entry in config.compare.items():
        unknown = sorted(set(entry) - set(_COMPARE_KEYS))
        if unknown:
            raise ConfigError(
                f"compare.{label}.{unknown[0]} is not known; expected some of "
                f"{', '.join(_COMPARE_KEYS)}."
            )
        found[str(label)] = _load(f"compare.{label}", dict(entry), device)
    if config.label in found:
        raise ConfigError(
            f"label={config.label!r} is also a label of compare; give it another one."
        )
    main = {
        "model": config.model.backend,
        "checkpoint": OmegaConf.select(config, "model.checkpoint"),
        "calculator": config.calculator,
        "dtype": config.model.dtype,
        "head": config.model.head,
    }
    if OmegaConf.is_missing(config.model, "checkpoint"):
        main["checkpoint"] = None
    found[config.label] = _load("model", main, device)
    return found


def _load(where: str, entry: dict[str, Any], device: str | torch.device) -> Potential:
    factory, checkpoint = entry.get("calculator"), entry.get("checkpoint")
    if (factory is None) == (checkpoint is None):
        named = "calculator" if where == "model" else f"{where}.calculator"
        raise ConfigError(
            f"{where}: give either {where}.checkpoint=FILE or "
            f"{named}=module:factory, and not both."
        )
    if factory is not None:
        return make_calculator(str(factory))
    backend = entry.get("model")
    # The default group of models leaves the backend to the file.
    backend = None if backend == "auto" else backend
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(
            f"{where}: model={backend!r}; expected one of {', '.join(BACKENDS)}."
        )
    return load_model(
        str(checkpoint),
        backend=backend,
        dtype=entry.get("dtype") or "float64",
        head=entry.get("head"),
        device=device,
    )


def make_calculator(spec: str) -> BaseCalculator:
    """Make an ASE calculator with a function or class of the user's.

    Args:
        spec: ``module:factory``; the module may lie in the working directory, and the
            factory is called without arguments.

    Raises:
        ConfigError: It cannot be imported, or makes something else.
    """
    module_name, separator, factory_name = spec.partition(":")
    if not separator or not factory_name:
        raise ConfigError(
            f"calculator={spec!r}; expected module:factory, e.g. "
            "my_models:make_calculator."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"calculator={spec!r} cannot be imported ({error}). Is the module in "
            "the working directory or installed?"
        ) from error
    calculator = factory()
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(
            f"calculator={spec!r} made a {type(calculator).__name__}; expected an "
            "ASE calculator."
        )
    return calculator


def build_fabric(config: DictConfig) -> Fabric:
    """Start this process's share of the work, in Lightning's own way."""
    shared = config.devices != 1 or config.num_nodes != 1
    # gloo: the processes only exchange numbers, and never leave the CPU for it.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_TIMEOUT)
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy if shared else "auto",
    )
    fabric.launch()
    return fabric


def evaluate(config: DictConfig) -> Evaluation:
    """Run one evaluation from a composed configuration.

    Args:
        config: As composed from ``conf/evaluate.yaml``.

    Raises:
        PFTError: Anything in the configuration or the data that cannot be used.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    protocol = Protocol(**values["protocol"])
    options = PhononReadOptions(**values["options"])
    fabric = build_fabric(config)
    folder = RunFolder(config.paths.run)
    potentials = load_potentials(config, fabric.device)
    if fabric.is_global_zero:
        folder.write_start(config)
    evaluation = evaluate_phonons(
        potentials,
        values["phonons"],
        protocol=protocol,
        out=folder.path,
        upstream=values["upstream"],
        upstream_keys=values["upstream_keys"],
        options=options,
        max_atoms=config.max_atoms,
        engine=config.engine,
        versions=collect_versions(),
        progress=config.progress,
    )
    if fabric.is_global_zero:
        report = write_report(folder.path)
        print_evaluation(evaluation.summary, folder.path, report)
    return evaluation


@hydra.main(
    version_base="1.3", config_path="pkg://pft_lightning.conf", config_name="evaluate"
)
@report_errors
def main(config: DictConfig) -> None:
    """Entry point of ``pft-evaluate``."""
    keep_freed_memory()
    try:
        evaluate(config)
    except KeyboardInterrupt:
        print(
            f"interrupted: what is finished lies in {config.paths.run}; the same "
            "command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(130)
