"""The run that ``pft-train``'s own options describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ase import Atoms
from omegaconf import DictConfig
from phonopy import Phonopy

from pft_lightning import keys
from pft_lightning.adaptation import Adaptation
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import load_model, runs_code
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.errors import CheckpointError
from pft_lightning.evaluation.force_constants import in_float64
from pft_lightning.evaluation.protocols import get_protocol, relax
from pft_lightning.losses import ElasticTarget
from pft_lightning.losses.elastic import ELASTIC_WEIGHTS
from pft_lightning.losses.properties import Property
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.replay import add_replay, write_replay
from pft_lightning.training.balance import AUTO, LossBalance, loss_weights
from pft_lightning.training.instantiation import instantiate
from pft_lightning.training.module import (
    PAPER_PHONON_WEIGHTS,
    PAPER_UPSTREAM_WEIGHTS,
    PhononFineTuning,
)
from pft_lightning.training.replay import ReplayedSteps


# Terms beside those of energies, forces and stresses, and kinds of some.
_OTHERS = ("hvp", "third_order", "elastic", "properties", *get_args(Property))


class NativeRun:
    """A base model, fine-tuned as the configuration says; see ``TrainingRun``.

    Args:
        config: as composed by ``pft-train``.
        overrides: of the command line; they are in the configuration.
        folder: of the run.
        rank: of this process.
    """

    def __init__(
        self, config: DictConfig, overrides: Sequence[str], folder: Path, rank: int = 0
    ) -> None:
        self.config = config
        self.folder = RunFolder(folder)
        self.rank = rank
        if config.replay.n_frames:
            add_replay(config.data.upstream, self.folder.path)

    def check_resumable(self) -> None:
        """Compare configuration, base model and checkpoint with those of the folder."""
        self.folder.check_resumable(self.config)

    def record(self) -> None:
        """Write configuration, versions, command and the base model's hash."""
        self.folder.write_start(self.config)

    def build_module(self) -> PhononFineTuning:
        """Load the potential and wrap it, ready to be trained."""
        return _wrap(self.config, "adaptation", "optimizer", "scheduler")

    def build_datamodule(self, model: EnergyModel) -> PhononDataModule:
        """Phonons and frames, those of ``replay`` too."""
        datamodule: PhononDataModule = instantiate(
            self.config.data,
            where="data",
            trust=self.config.trust_config,
            cutoff=model.cutoff,
            atomic_numbers=model.atomic_numbers,
        )
        datamodule.use_relaxation(partial(_relax, model))
        if self.config.replay.n_frames and self.rank == 0:
            write_replay(self.config, self.folder, self._base_model, datamodule)
        return datamodule

    def _base_model(self) -> EnergyModel:
        """The potential as no adaptation has touched it, with the upstream head."""
        model = _load(self.config)
        adaptation: Adaptation = instantiate(
            self.config.adaptation, where="adaptation", trust=self.config.trust_config
        )
        head = adaptation.heads(model.head).get(keys.UPSTREAM)
        # One that is new begins as a copy of the loaded one.
        if head in model.heads:
            model.head = head
        return model


def _relax(model: EnergyModel, phonon: Phonopy) -> Atoms:
    """Relax a unit cell by a potential in float64, as evaluations do."""
    return relax(in_float64(model), phonon, get_protocol("mdr"))[0]


class NativeRecord:
    """The folder of such a run; see ``RunRecord``.

    Args:
        config: of the run.
        folder: of the run.
    """

    def __init__(self, config: DictConfig, folder: RunFolder) -> None:
        self.config = config
        self.folder = folder

    def identify_base_model(self) -> dict[str, Any]:
        """That of the configuration, which the weights of a checkpoint belong to."""
        return self.folder.check_base_model(self.config)

    def build_module(self) -> PhononFineTuning:
        """The potential in its wrapping.

        Raises:
            CheckpointError: it is a package, whose code would run, and not trusted.
        """
        _refuse_code(self.config.model)
        return _wrap(self.config, "adaptation")

    def upstream_sources(self) -> dict[str, list[str]]:
        """Those of ``data.upstream``."""
        return name_sources(self.config.data.upstream)


def name_sources(data: DictConfig) -> dict[str, list[str]]:
    """Names, without folders, of what data were read from.

    Args:
        data: ``data.phonons`` or ``data.upstream`` of a configuration.
    """
    named = {}
    for part in ("train", "val"):
        spec = data.get(part) or []
        listed = [spec] if isinstance(spec, str) else spec
        named[part] = [Path(str(source)).name for source in listed]
    return named


def _without_others(of_terms: DictConfig) -> dict[str, Any]:
    return {str(k): v for k, v in of_terms.items() if k not in _OTHERS}


def _until_found(
    weights: Mapping[str, Any], published: Mapping[str, float]
) -> dict[str, float]:
    """Put the published weights where ``auto`` stands; the balance replaces them."""
    return {k: published[k] if v == AUTO else v for k, v in weights.items()}


def loss_options(config: DictConfig) -> dict[str, Any]:
    """Arguments of ``PhononFineTuning`` that every kind of run takes from ``loss``."""
    loss = config.loss
    return {
        "phonon_weights": _until_found(
            _without_others(loss.phonon), PAPER_PHONON_WEIGHTS
        ),
        "kinds": _without_others(loss.kind),
        "elastic": ElasticTarget(
            # Runs of earlier versions have neither.
            dict(loss.get("elastic") or ELASTIC_WEIGHTS),
            loss.kind.get("elastic", "mae"),
            loss.huber_delta,
        ),
        "reduction": loss.reduction,
        "huber_delta": loss.huber_delta,
        "engine": config.engine,
        "validation_seed": config.seed,
        "balance": LossBalance(loss_weights(loss)),
    }


def _refuse_code(options: DictConfig) -> None:
    """Ask before code runs that the configuration of a run names, not the user."""
    checkpoint, trusted = options.checkpoint, options.get("trust", False)
    if checkpoint is not None and not trusted and runs_code(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: the base model of the run is a NequIP package, whose own "
            "Python code would run. If you trust the package and the run, add "
            "model.trust=true to the command."
        )


def _load(config: DictConfig) -> EnergyModel:
    return load_model(
        config.model.checkpoint,
        backend=config.model.backend,
        dtype=config.model.dtype,
        head=config.model.head,
        trust=config.model.get("trust", False),
    )


def _wrap(config: DictConfig, *parts: str) -> PhononFineTuning:
    made = {
        part: instantiate(config[part], where=part, trust=config.trust_config)
        for part in parts
    }
    # Another kind of run may have none.
    upstream = _until_found(config.loss.upstream or {}, PAPER_UPSTREAM_WEIGHTS)
    return PhononFineTuning(
        _load(config),
        upstream_weights=upstream,
        replayed=ReplayedSteps() if config.get("cuda_graphs") else None,
        **loss_options(config),
        **made,
    )
