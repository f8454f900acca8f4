"""What an export starts from: the folder of a run, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import find_model_file, load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import TrainedRun
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.kinds import open_record
from pft_lightning.runs.provenance import describe_conversion, describe_run
from pft_lightning.runs.run import RunRecord
from pft_lightning.training.checkpoint_io import read_checkpoint
from pft_lightning.training.instantiation import check_data


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
    """

    model: EnergyModel
    history: dict[str, Any]
    config: DictConfig | None
    description: str


class Origin(Protocol):
    """Where a potential comes from.

    Args:
        config: of ``pft-export``.
    """

    def __init__(self, config: DictConfig) -> None: ...

    def load_potential(self) -> Potential:
        """Load it, with what is known of it.

        Raises:
            PFTError: it is not there, damaged, or not of what was asked for.
        """


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

    def load_potential(self) -> Potential:
        """See ``Origin``."""
        options = self._options
        model = load_model(
            options.checkpoint,
            backend=options.backend,
            dtype=options.dtype,
            head=options.head,
            trust=options.trust,
        )
        source = find_model_file(options.checkpoint, options.backend)
        return Potential(model, describe_conversion(source), None, str(source))


class RunOrigin:
    """A checkpoint of a run.

    Args:
        config: of ``pft-export``.

    Raises:
        CheckpointError: there is no such run.
    """

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._folder = RunFolder.existing(config.run)

    def load_potential(self) -> Potential:
        """See ``Origin``."""
        path, folder = self._find_checkpoint(), self._folder
        run_config = folder.read_config()
        record = open_record(_check_run(run_config, folder, self._config), folder)
        base_model = record.identify_base_model()
        checkpoint = read_checkpoint(path, remedy=_REMEDY)
        weights = self._choose_weights(checkpoint, path)
        model = _load_weights(record, checkpoint, weights, path, folder)
        history = describe_run(
            folder,
            run_config,
            model,
            upstream=record.upstream_sources(),
            base_model=base_model,
            checkpoint=path,
            weights=weights,
            step=int(checkpoint.get("global_step", 0)),
            trust=record.config.model.trust,
        )
        return Potential(model, history, record.config, f"{_WORDS[weights]} of {path}")

    def _find_checkpoint(self) -> Path:
        folder, asked = self._folder, self._config.checkpoint
        checkpoints = {"best": folder.best_checkpoint, "last": folder.last_checkpoint}
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


def _is_averaged(checkpoint: dict[str, Any]) -> bool:
    return "current_model_state" in checkpoint


def _load_weights(
    record: RunRecord,
    checkpoint: dict[str, Any],
    weights: str,
    path: Path,
    folder: RunFolder,
) -> EnergyModel:
    module = record.build_module()
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
    return module.model


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
