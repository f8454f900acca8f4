"""What configurations are composed of: the groups of options and their choices.

Defaults come from the classes that take them (``blocks``); the YAML files of ``conf``
hold the lists of groups, Hydra's own settings, and experiments. Registered with Hydra
when ``pft_lightning.conf`` is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import BACKENDS
from pft_lightning.evaluation.conductivity.protocol import CONDUCTIVITY_PROTOCOLS
from pft_lightning.evaluation.protocols import PROTOCOLS
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import choice, defaults_of
from pft_lightning.options.conductivity import ConductivityProtocolOptions
from pft_lightning.options.schema import (
    Evaluate,
    Export,
    Loss,
    Model,
    Prepare,
    Train,
)


COMMANDS: dict[str, type[Options]] = {
    "train": Train,
    "evaluate": Evaluate,
    "prepare": Prepare,
    "export": Export,
}
# Where ``_self_`` of a primary configuration finds the options of its command.
OPTIONS_OF = "{}_options"

_SEED = "${seed}"
_DATA = "pft_lightning.data.datamodule"
_ADAPTATION = "pft_lightning.adaptation"
_CALLBACKS = "pft_lightning.callbacks"
_PROBES, _WAVES = "pft_lightning.physics.probes", "pft_lightning.physics.wave_probes"
_SCHEDULERS = "torch.optim.lr_scheduler"
_LIGHTNING = "lightning.pytorch"


def _model() -> dict[str, Any]:
    kinds = {
        name: {**defaults_of(Model), "backend": name}
        for name, backend in BACKENDS.items()
        if backend.library
    }
    return {"auto": defaults_of(Model), **kinds}


def _adaptation() -> dict[str, Any]:
    def adapted(name: str, **values: Any) -> dict[str, Any]:
        return choice(f"{_ADAPTATION}.{name}", **values)

    return {
        "none": adapted("FullFineTuning"),
        "lora": adapted("LoRA", _convert_="all", seed=_SEED),
        "delta": adapted("Delta", _convert_="all"),
        "freeze": adapted("Freeze", _convert_="all"),
        "multihead": adapted("MultiHead", _convert_="all"),
        "scratch": adapted("Scratch", seed=_SEED),
    }


def _data() -> dict[str, Any]:
    reading = choice("pft_lightning.data.readers.options.PhononReadOptions")
    phonons = choice(f"{_DATA}.PhononSource", options=reading)
    upstream = choice(f"{_DATA}.UpstreamSource")
    module = choice(
        f"{_DATA}.PhononDataModule",
        phonons=phonons,
        upstream=upstream,
        elastic=choice(f"{_DATA}.ElasticSource"),
        measured=choice(f"{_DATA}.MeasuredSource"),
        seed=_SEED,
    )
    return {"default": module}


def _probe() -> dict[str, Any]:
    return {
        "column": choice(f"{_PROBES}.ColumnProbe"),
        "irreducible": choice(f"{_PROBES}.IrreducibleProbe"),
        "sparse": choice(f"{_PROBES}.SparseProbe"),
        "rademacher": choice(f"{_PROBES}.RademacherProbe"),
        "gaussian": choice(f"{_PROBES}.GaussianProbe"),
        "mode": choice(f"{_WAVES}.ModeProbe"),
        "commensurate": choice(f"{_WAVES}.CommensurateProbe"),
        "commensurate_rademacher": choice(f"{_WAVES}.CommensurateRademacherProbe"),
    }


def _loss() -> dict[str, Any]:
    published = defaults_of(Loss)
    balanced = {
        **published,
        "phonon": published["phonon"]
        | {"forces": "auto", "stress": 0.0, "hvp": "auto"},
        "upstream": dict.fromkeys(published["upstream"], "auto"),
        # The form of the losses whose shares of the gradient are those of auto.
        "kind": {**published["kind"], "hvp": "l2"},
    }
    return {"pft": published, "auto": balanced}


def _optimizer() -> dict[str, Any]:
    return {"adamw": choice("torch.optim.AdamW", _partial_=True)}


def _scheduler() -> dict[str, Any]:
    def schedule(name: str, **values: Any) -> dict[str, Any]:
        return choice(f"{_SCHEDULERS}.{name}", _partial_=True, **values)

    return {
        "constant": schedule("ConstantLR"),
        "cosine": choice(
            "pft_lightning.training.schedules.Cosine",
            _partial_=True,
            T_max="${trainer.max_steps}",
        ),
        "plateau": schedule("ReduceLROnPlateau"),
    }


def _trainer() -> dict[str, Any]:
    return {
        "default": choice(
            "lightning.Trainer",
            default_root_dir="${paths.run}",
            enable_model_summary=False,  # what is trained is listed by the run
        )
    }


def _callbacks() -> dict[str, Any]:
    default = {
        "ema": choice(f"{_CALLBACKS}.RampedEMA"),
        "anchor": choice(f"{_CALLBACKS}.FisherAnchor"),
        "best": choice(f"{_LIGHTNING}.callbacks.ModelCheckpoint"),
        "last": choice(
            f"{_CALLBACKS}.LastCheckpoint", path="${paths.run}/checkpoints/last.ckpt"
        ),
        "learning_rate": choice(f"{_LIGHTNING}.callbacks.LearningRateMonitor"),
        "throughput": choice(f"{_CALLBACKS}.Throughput"),
        "device_stats": {"_target_": f"{_LIGHTNING}.callbacks.DeviceStatsMonitor"},
    }
    stopping = choice(f"{_LIGHTNING}.callbacks.EarlyStopping")
    phonons = choice(
        f"{_CALLBACKS}.PhononValidation",
        phonons="${data.phonons.val}",
        options="${data.phonons.options}",
        mesh=40.0,  # Å, coarser than that of an evaluation
    )
    conductivities = choice(f"{_CALLBACKS}.ConductivityValidation", structures=None)
    return {
        "default": default,
        "early_stopping": {**default, "early_stopping": stopping},
        "phonon_validation": {**default, "phonon_validation": phonons},
        "conductivity_validation": {
            **default,
            "phonon_validation": phonons,
            "conductivity_validation": conductivities,
        },
    }


def _logger() -> dict[str, Any]:
    return {
        "csv": choice(f"{_LIGHTNING}.loggers.CSVLogger"),
        "wandb": choice(f"{_LIGHTNING}.loggers.WandbLogger"),
        "none": {},
    }


def _protocol() -> dict[str, Any]:
    protocols: dict[str, Any] = {**PROTOCOLS, **CONDUCTIVITY_PROTOCOLS}
    values = {
        name: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(protocol).items()
        }
        for name, protocol in protocols.items()
    }
    return dict(values)


def block_of_choice(command: str, group: str, choice: str) -> Any:
    """What the options of a choice are, where the choice itself names no class."""
    if group == "protocol" and choice in CONDUCTIVITY_PROTOCOLS:
        return ConductivityProtocolOptions
    return COMMANDS[command].model_fields[group].annotation


_GROUPS: dict[str, Callable[[], dict[str, Any]]] = {
    "model": _model,
    "adaptation": _adaptation,
    "data": _data,
    "probe": _probe,
    "loss": _loss,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "trainer": _trainer,
    "callbacks": _callbacks,
    "logger": _logger,
    "protocol": _protocol,
    "compare": lambda: {"none": {}},
}


@cache
def groups() -> dict[str, dict[str, Any]]:
    """Every group: name of a choice -> its options with their defaults."""
    return {group: choices() for group, choices in _GROUPS.items()}


@cache
def root_options(command: str) -> dict[str, Any]:
    """Options of a command that are in no group, with their defaults."""
    composed = defaults_of(COMMANDS[command])
    chosen = first_choices(command)
    return {name: value for name, value in composed.items() if name not in chosen}


@cache
def primary(command: str) -> DictConfig:
    """The YAML file of a command: its groups, and what differs from defaults."""
    file = files("pft_lightning.conf") / f"{command}.yaml"
    content: Any = OmegaConf.create(file.read_text(encoding="utf-8"))
    return content  # type: ignore[no-any-return]


@cache
def first_choices(command: str) -> dict[str, str]:
    """Groups of a command, and the choice that each starts with."""
    entries: Any = primary(command).defaults
    return {
        str(group): choice
        for entry in entries
        if isinstance(entry, DictConfig)
        for group, choice in entry.items()
        if group in _GROUPS
    }


def register() -> None:
    """Give Hydra all of this."""
    store = ConfigStore.instance()
    for command in COMMANDS:
        store.store(
            name=OPTIONS_OF.format(command),
            node=OmegaConf.create(root_options(command)),
            package="_global_",
            provider="pft_lightning",
        )
    for group, choices in groups().items():
        for name, values in choices.items():
            node: DictConfig = OmegaConf.create(values)
            if group == "compare":
                # Labels are the user's own: keys may be added without a "+" in front.
                node = OmegaConf.create(values, flags={"struct": False})
            store.store(group=group, name=name, node=node, provider="pft_lightning")
