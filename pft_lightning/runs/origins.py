"""What an export starts from: the folder of a run, or a file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pft_lightning import keys
from pft_lightning.adaptation import Scratch
from pft_lightning.adaptation.mixing import mix, name_share
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.parametrized import undo_changes
from pft_lightning.backends.registry import find_model_file, load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import TrainedRun
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.kinds import open_record
from pft_lightning.runs.provenance import (
    check_base,
    describe_conversion,
    describe_mix,
    describe_run,
    identify,
)
from pft_lightning.training.checkpoint_io import read_checkpoint
from pft_lightning.training.instantiation import check_data
from pft_lightning.training.module import PhononFineTuning


EMA, RAW = "ema", "raw"
_WORDS = {EMA: "moving average", RAW: "weights without average"}
_REMEDY = (
    "Export checkpoint=last or best, or continue the run with resume=true. A model "
    "file is given as model.checkpoint=."
)


@dataclass(frozen=True, slots=True)
class Potential:
    """What is to be written.

    Attributes:
        model: with the weights.
        history: for the provenance.
        config: of the run; None for a file.
        description: in words.
        base: what it was fine-tuned from; None where nobody asked.
        base_file: name and hash of its file.
        upstream_head: output head of the upstream frames that a run trained on, where
            it is not the one in use.
        sources: files that it comes from, those of its run among them, which nothing
            may be written over.
    """

    model: EnergyModel
    history: dict[str, Any]
    config: DictConfig | None
    description: str
    base: EnergyModel | None = None
    base_file: dict[str, Any] = field(default_factory=dict)
    upstream_head: str | None = None
    sources: tuple[Path, ...] = ()

    def mixed(self, share: float) -> Potential:
        """The potential part of the way from the base model, 0, to this one, 1.

        Raises:
            ConfigError: the two differ in more than weights.
        """
        assert self.base is not None
        try:
            model = mix(self.base, self.model, share)
        except ConfigError as error:
            raise ConfigError(
                f"{self.base_file['file']} and {self.description}: {error}"
            ) from error
        return replace(
            self,
            model=model,
            history=describe_mix(self.history, share, self.base_file),
            description=f"{name_share(share)} of the way from the base model to the "
            f"{self.description}",
        )


class Origin(Protocol):
    """Where a potential comes from.

    Args:
        config: of ``pft-export``.
    """

    def __init__(self, config: DictConfig) -> None: ...

    def load_potential(self, *, with_base: bool) -> Potential:
        """Load it, with what is known of it.

        Args:
            with_base: load what it was fine-tuned from, too.

        Raises:
            PFTError: it is not there, damaged, or not of what was asked for.
        """


def find_origin(config: DictConfig) -> Origin:
    """What options name, of which one of ``run`` and ``model.checkpoint`` is given.

    Args:
        config: with the options of ``options.schema.Origin``, and ``model``.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: options are given that do not belong together.
    """
    kind: type[Origin] = FileOrigin if config.run is None else RunOrigin
    return kind(config)


class FileOrigin:
    """A model file.

    Args:
        config: of ``pft-export``.

    Raises:
        ConfigError: weights are asked for that only runs have.
    """

    def __init__(self, config: DictConfig) -> None:
        if config.weights is not None:
            raise ConfigError(
                "weights= chooses among the weights of a run; leave it out."
            )
        self._options = config.model
        self._base: str | None = config.base

    def load_potential(self, *, with_base: bool) -> Potential:
        """See ``Origin``."""
        options = self._options
        model = self._load(options.checkpoint, options.dtype)
        source = find_model_file(options.checkpoint, options.backend)
        potential = Potential(
            model, describe_conversion(source), None, str(source), sources=(source,)
        )
        if not with_base:
            return potential
        if self._base is None:
            raise ConfigError(
                f"base is not given: the potential that {options.checkpoint} was "
                "fine-tuned from, e.g. base=base.model. A run knows its own: "
                "run=FOLDER."
            )
        found = find_model_file(self._base, options.backend)
        check_base(source, found)
        base = self._load(self._base, str(model.dtype).removeprefix("torch."))
        return replace(
            potential, base=base, base_file=identify(found), sources=(source, found)
        )

    def _load(self, path: str, dtype: str | None) -> EnergyModel:
        options = self._options
        return load_model(
            path,
            backend=options.backend,
            dtype=dtype,
            head=options.head,
            trust=options.trust,
        )


class RunOrigin:
    """A checkpoint of a run.

    Args:
        config: of ``pft-export``.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: a base model is given, which the run has.
    """

    def __init__(self, config: DictConfig) -> None:
        if config.base is not None:
            raise ConfigError(
                f"base={config.base}: a run is mixed with the base model that it "
                "started from; leave it out."
            )
        self._config = config
        self._folder = RunFolder.existing(config.run)

    def load_potential(self, *, with_base: bool) -> Potential:
        """See ``Origin``."""
        folder = self._folder
        run_config = folder.read_config()
        path = self._find_checkpoint(run_config)
        record = open_record(_check_run(run_config, folder, self._config), folder)
        base_file = record.identify_base_model()
        checkpoint = read_checkpoint(path, remedy=_REMEDY)
        weights = self._choose_weights(checkpoint, path)
        module = record.build_module()
        base = _copy_base(module, base_file, folder) if with_base else None
        _load_weights(module, checkpoint, weights, path, folder)
        history = describe_run(
            folder,
            run_config,
            module.model,
            upstream=record.upstream_sources(),
            base_model=base_file,
            checkpoint=path,
            weights=weights,
            step=int(checkpoint.get("global_step", 0)),
            trust=record.config.model.trust,
        )
        words = f"{_WORDS[weights]} of {path}"
        with module.head_of(keys.UPSTREAM):
            head = module.model.head
        return Potential(
            module.model,
            history,
            record.config,
            words,
            base,
            base_file,
            upstream_head=None if head == module.model.head else head,
            sources=(path, *_files_of(folder, record.config)),
        )

    def _find_checkpoint(self, run_config: DictConfig) -> Path:
        folder, asked = self._folder, self._config.checkpoint
        checkpoints = {"best": folder.best_checkpoint, "last": folder.last_checkpoint}
        if asked is None:
            # As at the end of the training: what was never judged has no best weights.
            kept_best = folder.best_checkpoint.is_file()
            asked = run_config.get("export", "best") if kept_best else "last"
        path = checkpoints.get(asked, Path(asked))
        if not path.is_file():
            there = [name for name, file in checkpoints.items() if file.is_file()]
            kept = f"checkpoint={' or '.join(there)}" if there else "none of its own"
            raise CheckpointError(
                f"{path}: no such checkpoint; expected checkpoint=best, last, or a "
                f"file. The run kept {kept}."
            )
        return path

    def _choose_weights(self, checkpoint: dict[str, Any], path: Path) -> str:
        asked: str | None = self._config.weights
        if asked == EMA and not _is_averaged(checkpoint):
            raise ConfigError(
                f"weights=ema: {path} holds no average, because the run kept none. Use "
                "weights=raw, or leave it out."
            )
        return asked or (EMA if _is_averaged(checkpoint) else RAW)


def _files_of(folder: RunFolder, config: DictConfig) -> tuple[Path, ...]:
    """The base model, checkpoints and results of a run."""
    model = config.model
    base = [] if model.checkpoint is None else [model.checkpoint]
    return (
        *(find_model_file(file, model.backend) for file in base),
        *(folder.best_checkpoint, folder.last_checkpoint),
        *folder.path.glob("model.*"),
    )


def _is_averaged(checkpoint: dict[str, Any]) -> bool:
    return "current_model_state" in checkpoint


def _copy_base(
    module: PhononFineTuning, base_file: dict[str, Any], folder: RunFolder
) -> EnergyModel:
    """What the training started from, a new head among it.

    Args:
        module: of the run, before it is given the weights of a checkpoint.
        base_file: of the run; empty for none.
        folder: of the run.

    Raises:
        ConfigError: it started from weights that were drawn.
    """
    if isinstance(module.adaptation, Scratch) or not base_file:
        raise ConfigError(
            f"mix: the run in {folder.path} started from random weights, so that "
            "nothing useful lies between them and the trained ones. Leave mix out."
        )
    base = copy.deepcopy(module.model)
    undo_changes(base)
    return base


def _load_weights(
    module: PhononFineTuning,
    checkpoint: dict[str, Any],
    weights: str,
    path: Path,
    folder: RunFolder,
) -> None:
    module.on_load_checkpoint(checkpoint)
    # Lightning puts the average where the weights are otherwise.
    use_other = _is_averaged(checkpoint) and weights == RAW
    state = checkpoint["current_model_state" if use_other else "state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: is not a checkpoint of the run in {folder.path}, whose potential "
            f"has other weights ({str(error).splitlines()[-1].strip()})."
        ) from error


def _check_run(
    run_config: DictConfig, folder: RunFolder, config: DictConfig
) -> DictConfig:
    """The configuration of a run, which may be another's, to build its potential.

    It is data, and no more: what is trusted is said by the command.

    Raises:
        CheckpointError: It is damaged, or refers to something outside of it.
    """
    built = run_config.copy()
    with open_dict(built):
        built.trust_config = config.trust_config
        if OmegaConf.is_dict(built.get("model")):
            built.model.trust = config.model.get("trust", False)
    try:
        # What pft-train writes is resolved; ${oc.env:...} would hand on a secret.
        check_data(OmegaConf.to_container(built), "config")
        needed = [name for name in TrainedRun.model_fields if name in built]
        part = OmegaConf.masked_copy(built, needed)
        check_options(part, TrainedRun, trust=config.trust_config)
    except (ConfigError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"{folder.path}: config.yaml is not that of a run that can be exported: "
            f"{error}"
        ) from error
    return built
