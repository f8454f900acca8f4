"""A ``mace_run_train`` file as the description of a ``pft-train`` run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf, open_dict

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.mace import files as mace_files
from pft_lightning.backends.mace import portable as mace_portable
from pft_lightning.backends.mace.model import MACEModel
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.mace.arguments import read_arguments
from pft_lightning.integrations.mace.callbacks import MACEAverage
from pft_lightning.integrations.mace.data import MACEDataModule
from pft_lightning.integrations.mace.module import UPSTREAM_LOSS, MACEFineTuning
from pft_lightning.integrations.mace.prepare import Prepared, prepare
from pft_lightning.integrations.mace.record import NETWORK_FILE
from pft_lightning.integrations.mace.schedule import GOES_ON
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.native import loss_options
from pft_lightning.training.instantiation import instantiate


# Values of pft-train -> the option of MACE that they replace.
REPLACES = {
    "seed": "seed",
    "model.checkpoint": "foundation_model",
    "model.dtype": "default_dtype",
    "data.upstream.train": "train_file",
    "data.upstream.val": "valid_file",
    "data.upstream.batch_size": "batch_size",
    "data.upstream.energy_key": "energy_key",
    "data.upstream.forces_key": "forces_key",
    "data.upstream.stress_key": "stress_key",
    "data.val_fraction": "valid_fraction",
    "data.num_workers": "num_workers",
    "loss.upstream.energy": "energy_weight",
    "loss.upstream.forces": "forces_weight",
    "loss.upstream.stress": "stress_weight",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "callbacks.ema.decay": "ema_decay",
    "trainer.max_epochs": "max_num_epochs",
    "trainer.gradient_clip_val": "clip_grad",
    "trainer.check_val_every_n_epoch": "eval_interval",
    "trainer.accelerator": "device",
}

# Values of pft-train that MACE has no part in.
_OWN = (
    "mace_config",
    "mace",
    "model.head",
    "model.trust",
    "functional",
    "data.phonons",
    "data.mode",
    "data.upstream_per_phonon",
    "data.cache_dir",
    "probe",
    "loss.phonon",
    "loss.kind",
    "loss.huber_delta",
    "loss.reduction",
    "loss.hvp_schedule",
    "loss.hvp_warmup_steps",
    "loss.hvp_every_n_phonon_steps",
    "adaptation",
    "engine",
    "resume",
    "trust_config",
    "export",
    "paths",
    "hydra",
    "logger",
    "callbacks",
    "trainer",
)
_NOT_OWN = (
    "callbacks.anchor",
    "callbacks.ema",
    "trainer.val_check_interval",
    "trainer.num_sanity_val_steps",
)

_DEVICES = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


class MACERun:
    """One training as MACE would do it, and phonons; see ``TrainingRun``.

    Args:
        config: as composed by ``pft-train``, with ``mace_config``.
        overrides: of the command line, which win over the file.
        folder: of the run.
        rank: of this process; each has its own folder for what MACE writes.

    Attributes:
        config: with the values of the file, and all options of MACE under ``mace``.

    Raises:
        ConfigError: see ``read_arguments``, ``prepare``; or an override that has no
            place beside a file of MACE.
        DataFormatError: a file that is named does not exist.
    """

    def __init__(
        self,
        config: DictConfig,
        overrides: Sequence[str],
        folder: Path,
        rank: int = 0,
    ) -> None:
        given = {text.split("=", 1)[0].lstrip("+~") for text in overrides}
        _check_overrides(given)
        changes = _changes(config, given)
        arguments = read_arguments(config.mace_config, changes)
        adaptation = _adaptation(config, given, arguments)
        name = "mace" if rank == 0 else f"mace/process_{rank}"
        self._prepared = prepare(
            arguments, folder / name, trust=config.model.get("trust", False)
        )
        _repeat(self._prepared.arguments, changes)
        _name_overruled(config.mace_config, arguments, self._prepared)
        self.folder = RunFolder(folder)
        self.config = _translate(config, given, arguments, self._prepared)
        self.config.adaptation = adaptation

    def check_resumable(self) -> None:
        """Compare also what MACE has built with what the run has kept.

        Statistics of the frames (mean number of neighbours, atomic energies, scale)
        are a part of the potential that checkpoints of weights do not hold.
        """
        path = self.folder.path / NETWORK_FILE
        config = mace_files.extract_config(self._prepared.network)
        if path.exists() and (changed := mace_portable.differences(path, config)):
            raise ConfigError(
                f"{self.config.mace_config}: the frames or options have changed since "
                f"the run in {self.folder.path} was started: MACE finds another "
                f"{', '.join(changed)}. Put them back, or start a new run."
            )
        self.folder.check_resumable(self.config, GOES_ON)

    def record(self) -> None:
        """Write also the network that MACE has built."""
        network, path = self._prepared.network, self.folder.path / NETWORK_FILE
        if not (self.config.resume and path.exists()):
            mace_portable.write(path, network, mace_files.extract_config(network))
        self.folder.write_start(self.config)

    def build_module(self) -> MACEFineTuning:
        """The network that MACE built, rebuilt for second derivatives."""
        config, network = self.config, self._prepared.network
        rebuilt = mace_files.build(
            type(network).__name__,
            mace_files.extract_config(network),
            network.state_dict(),
            scripted=False,
        )
        return MACEFineTuning(
            MACEModel(rebuilt, config.model.head),
            self._prepared,
            adaptation=instantiate(
                config.adaptation, where="adaptation", trust=config.trust_config
            ),
            **loss_options(config),
        )

    def build_datamodule(self, model: EnergyModel) -> MACEDataModule:
        """Frames as MACE would train on them, and the phonons."""
        data = self.config.data
        return MACEDataModule(
            self._prepared,
            train_phonons=_trains_phonons(self.config),
            phonons=instantiate(
                data.phonons, where="data.phonons", trust=self.config.trust_config
            ),
            cutoff=model.cutoff,
            atomic_numbers=model.atomic_numbers,
            mode=data.mode,
            upstream_per_phonon=data.upstream_per_phonon,
            val_fraction=data.val_fraction,
            num_workers=data.num_workers,
            cache_dir=data.cache_dir,
            seed=data.seed,
        )


def _within(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def _check_overrides(given: set[str]) -> None:
    for name in sorted(given):
        if name in REPLACES:
            continue
        if not _within(name, _OWN) or _within(name, _NOT_OWN) or name == "trainer":
            raise ConfigError(
                f"{name}=... has no effect beside mace_config: the file decides. "
                "Options of MACE are set as +mace.OPTION=VALUE, e.g. "
                "+mace.scheduler=ExponentialLR; of pft-train's own, "
                f"{', '.join(REPLACES)} replace what the file says."
            )


def _changes(config: DictConfig, given: set[str]) -> dict[str, Any]:
    """Options of MACE that the command line replaces."""
    changes: dict[str, Any] = {}
    for name in given & set(REPLACES):
        value = OmegaConf.select(config, name)
        changes[REPLACES[name]] = list(value) if OmegaConf.is_list(value) else value
    if "device" in changes:
        names = {ours: theirs for theirs, ours in _DEVICES.items()}
        if changes["device"] not in names:
            raise ConfigError(
                f"trainer.accelerator={changes['device']}: with mace_config, one of "
                f"{', '.join(names)}."
            )
        changes["device"] = names[changes["device"]]
    if "ema_decay" in changes:
        changes["ema"] = True
    # An option named as MACE does is the most explicit.
    own = OmegaConf.to_container(config.mace, resolve=True)
    assert isinstance(own, dict)
    return changes | {str(k): v for k, v in own.items()}


def _repeat(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """Set what MACE's multihead fine-tuning has overruled without being asked.

    Raises:
        ConfigError: the loss, which MACE has built by now.
    """
    if changes.get("loss", arguments.loss) != arguments.loss:
        raise ConfigError(
            f"mace.loss={changes['loss']}: MACE's multihead fine-tuning takes "
            f"loss={arguments.loss} always. Set multiheads_finetuning=false, or leave "
            "mace.loss out."
        )
    for name in ("lr", "ema", "ema_decay"):
        if name in changes:
            setattr(arguments, name, changes[name])


def _name_overruled(
    path: str, arguments: argparse.Namespace, prepared: Prepared
) -> None:
    """Say what MACE has decided otherwise than the file asks for."""
    completed = vars(prepared.arguments)
    changed = [
        f"{name}={completed[name]} in place of {vars(arguments)[name]}"
        for name in ("multiheads_finetuning", "loss", "lr", "ema", "ema_decay")
        if completed[name] != vars(arguments)[name]
    ]
    if arguments.foundation_model is None:  # no heads of their own: without effect
        changed = [text for text in changed if "multiheads" not in text]
    if prepared.keeps_energies:
        changed.append("the E0s of foundation_model in place of others")
    if changed:
        rank_zero_warn(f"{path}: MACE takes {', '.join(changed)}.")


def _trains_phonons(config: DictConfig) -> bool:
    return config.data.phonons.train is not None and any(
        weight > 0 for weight in config.loss.phonon.values()
    )


def _translate(
    config: DictConfig,
    given: set[str],
    arguments: argparse.Namespace,
    prepared: Prepared,
) -> DictConfig:
    """Write into a copy of the configuration what the file says."""
    translated: DictConfig = config.copy()
    completed = prepared.arguments
    phonons = translated.data.phonons
    with open_dict(translated):
        translated.mace = _plain(completed)
        translated.seed = completed.seed
        translated.model.update(
            backend="mace",
            checkpoint=completed.foundation_model,
            dtype=completed.default_dtype,
            head=translated.model.head or _phonon_head(prepared, phonons),
        )
        # Their values are those of MACE's options.
        translated.optimizer = translated.scheduler = translated.loss.upstream = None
        translated.data.upstream = None
        translated.data.num_workers = completed.num_workers
        translated.trainer.update(
            max_epochs=completed.max_num_epochs,
            gradient_clip_val=completed.clip_grad,
            accelerator=_DEVICES[completed.device],
            check_val_every_n_epoch=1,
            num_sanity_val_steps=0,
        )
        translated.callbacks.ema = (
            {
                "_target_": f"{MACEAverage.__module__}.{MACEAverage.__name__}",
                "decay": completed.ema_decay,
            }
            if completed.ema
            else None
        )
        best = translated.callbacks.get("best")
        validates_phonons = phonons.train is not None or phonons.val is not None
        if best and not validates_phonons and "callbacks.best.monitor" not in given:
            best.monitor = UPSTREAM_LOSS
        if not _trains_phonons(translated):
            translated.probe = None
        if arguments.wandb and not any(_within(name, ("logger",)) for name in given):
            translated.logger = {
                "_target_": "lightning.pytorch.loggers.WandbLogger",
                "project": arguments.wandb_project or "pft_lightning",
                "entity": arguments.wandb_entity or None,
                "name": arguments.wandb_name or arguments.name,
                "save_dir": translated.paths.run,
                "log_model": False,
            }
    return translated


def _plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options whose values YAML can hold; MACE replaces some texts by objects."""
    kinds = (str, int, float, bool, list, type(None))
    return {
        k: value for k, value in vars(arguments).items() if isinstance(value, kinds)
    }


def _phonon_head(prepared: Prepared, phonons: DictConfig) -> str | None:
    """The head that is not replay, where there is one such; any without phonons."""
    heads = [head for head in prepared.valid_loaders if head != "pt_head"]
    if phonons.train is None and phonons.val is None:
        return heads[-1]
    return heads[0] if len(heads) == 1 else None


def _adaptation(
    config: DictConfig, given: set[str], arguments: argparse.Namespace
) -> Any:
    """That of the command line, else what ``lora`` and ``freeze`` mean."""
    if any(_within(name, ("adaptation",)) for name in given):
        known = {"FullFineTuning": "none", "LoRA": "lora", "Freeze": "freeze"}
        kind = str(config.adaptation._target_).rpartition(".")[2]
        if kind not in known:
            raise ConfigError(
                f"adaptation is a {kind}; beside mace_config it can be "
                f"{', '.join(known.values())}. Others need model.checkpoint=... of a "
                "model without mace_config."
            )
        return config.adaptation
    # MACE freezes nothing below one.
    freeze = max(arguments.freeze or 0, 0)
    if arguments.lora and freeze:
        raise ConfigError(
            f"{config.mace_config}: lora and freeze={freeze} together; "
            "choose one. adaptation=lora adaptation.targets=[...] on the command line "
            "adapts some layers."
        )
    package = "pft_lightning.adaptation"
    if arguments.lora:
        return {
            "_target_": f"{package}.LoRA",
            "_convert_": "all",
            "rank": arguments.lora_rank,
            "alpha": arguments.lora_alpha,
            "targets": ["linear", "radial"],
            "seed": arguments.seed,
        }
    if freeze:
        frozen = [
            pattern
            for least, pattern in (
                (1, "network.node_embedding.*"),
                (5, "network.interactions.*"),
                (6, "network.products.*"),
                (7, "network.readouts.*"),
            )
            if freeze >= least
        ]
        return {
            "_target_": f"{package}.Freeze",
            "_convert_": "all",
            "freeze": frozen,
        }
    return {"_target_": f"{package}.FullFineTuning"}
