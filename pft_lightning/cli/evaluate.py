"""``pft-evaluate``: phonons, thermal properties and forgetting against DFT."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from ase.calculators.calculator import BaseCalculator
from hydra.core.config_store import ConfigStore
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import load_model
from pft_lightning.cli.command import command
from pft_lightning.cli.memory import keep_freed_memory
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol
from pft_lightning.evaluation.runner import Evaluation, evaluate_phonons
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Evaluate
from pft_lightning.plots.report import write_report
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.tables import print_evaluation


# Ranks finish at different times, and one material can take hours.
_TIMEOUT = timedelta(days=30)

_FACTORY = re.compile(r"\w+(\.\w+)*:\w+")

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
        ConfigError: A label occurs twice, or an entry names no potential, or two.
        CheckpointError: A file cannot be read.
    """
    found: dict[str, Potential] = {}
    for label, entry in config.compare.items():
        found[str(label)] = _load(f"compare.{label}", dict(entry), device)
    if config.label in found:
        raise ConfigError(
            f"label={config.label!r} is also a label of compare; give it another one."
        )
    main = {
        "model": config.model.backend,
        "checkpoint": config.model.checkpoint,
        "calculator": config.calculator,
        "dtype": config.model.dtype,
        "head": config.model.head,
        "trust": config.model.trust,
    }
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
        return make_calculator(
            str(factory), "calculator" if where == "model" else f"{where}.calculator"
        )
    backend = entry.get("model")
    # The default group of models leaves the backend to the file.
    return load_model(
        str(checkpoint),
        backend=None if backend == "auto" else backend,
        dtype=entry.get("dtype") or "float64",
        head=entry.get("head"),
        trust=entry.get("trust", False),
        device=device,
    )


def make_calculator(spec: str, option: str = "calculator") -> BaseCalculator:
    """Make an ASE calculator with a function or class of the user's.

    Args:
        spec: ``module:factory``; the module may lie in the working directory, and the
            factory is called without arguments.
        option: that names it, for messages.

    Raises:
        ConfigError: It cannot be imported, or makes something else.
    """
    if not _FACTORY.fullmatch(spec):
        raise ConfigError(
            f"{option}={spec!r}; expected module:factory, e.g. "
            "my_models:make_calculator."
        )
    module_name, _, factory_name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{option}={spec!r} cannot be imported ({error}). Is the module in "
            "the working directory or installed?"
        ) from error
    except Exception as error:
        raise ConfigError(_failed(f"{option}={spec!r}: the module", error)) from error
    try:
        calculator = factory()
    except Exception as error:
        raise ConfigError(_failed(f"{option}={spec!r}: calling", error)) from error
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(
            f"{option}={spec!r} made a {type(calculator).__name__}; expected an "
            "ASE calculator."
        )
    return calculator


def _failed(what: str, error: Exception) -> str:
    return (
        f"{what} fails with {type(error).__name__}: {error}. PFT_TRACEBACK=1 shows "
        "where."
    )


def build_fabric(config: DictConfig) -> Fabric:
    """Start this process's share of the work, in Lightning's own way."""
    shared = config.devices != 1 or config.num_nodes != 1
    # gloo: the processes only exchange numbers, and never leave the CPU for it.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_TIMEOUT)
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy if shared else "auto",
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"accelerator={config.accelerator}, devices={config.devices}: cannot be "
            f"used here ({error})."
        ) from error
    fabric.launch()
    return fabric


def evaluate(config: DictConfig) -> Evaluation:
    """Run one evaluation from a composed configuration.

    Args:
        config: As composed from ``conf/evaluate.yaml``.

    Raises:
        PFTError: Anything in the configuration or the data that cannot be used.
    """
    config = check_options(config, Evaluate, not_needed=("model.checkpoint",))
    if OmegaConf.is_missing(config.model, "checkpoint"):
        config.model.checkpoint = None  # a calculator takes its place
    folder = RunFolder(config.paths.run)
    with folder.locked():
        fabric = build_fabric(config)
        try:
            return _evaluate(config, fabric, folder)
        except SystemExit:
            # SIGTERM came to this process alone, and the others would wait for it.
            for process in getattr(fabric.strategy.launcher, "procs", ()):
                process.terminate()
            raise


def _evaluate(config: DictConfig, fabric: Fabric, folder: RunFolder) -> Evaluation:
    values: Any = OmegaConf.to_container(config, resolve=True)
    protocol = Protocol(**values["protocol"])
    options = PhononReadOptions(**values["options"])
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
        upstream_limits=values["upstream_limits"],
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


def check_evaluation(summary: Mapping[str, Any]) -> None:
    """Refuse an evaluation that says nothing of a potential.

    Args:
        summary: Content of ``metrics.json``.

    Raises:
        DataFormatError: No material could be read, or a potential failed on each.
    """
    counts = summary["counts"]
    reasons = {f["model"]: f"{f['name']}: {f['error']}" for f in summary["failures"]}
    if counts["unreadable"] == counts["materials"]:
        raise DataFormatError(
            f"none of {counts['materials']} materials could be read ({reasons[None]})."
        )
    for label, failed in counts["failed"].items():
        if failed == counts["materials"]:
            why = reasons.get(label, reasons.get(None))
            raise DataFormatError(
                f"{label} failed on every one of {failed} materials ({why}). "
                "metrics.json has all reasons."
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
