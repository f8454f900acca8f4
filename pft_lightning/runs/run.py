"""What a training is to everything that runs, resumes, records or exports it."""

from __future__ import annotations

from typing import Any, Protocol

from omegaconf import DictConfig

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.training.module import PhononFineTuning


class TrainingRun(Protocol):
    """One training: the configuration that it amounts to, and its parts.

    A class of this kind is called with the composed configuration, the overrides of
    the command line, the folder of the run and the rank of the process.

    Attributes:
        config: complete; it replaces the composed one and is what the folder keeps.
    """

    config: DictConfig

    def check_resumable(self) -> None:
        """Refuse to continue the run of the folder with what it was not started with.

        Raises:
            CheckpointError: base model, adaptation or optimiser are others.
            ConfigError: what was kept of the run is another one.
        """

    def record(self) -> None:
        """Write into the folder what was started, all that a ``RunRecord`` reads."""

    def build_module(self) -> PhononFineTuning:
        """The potential, its losses and what trains it.

        Raises:
            PFTError: it cannot be made of what the configuration says.
        """

    def build_datamodule(self, model: EnergyModel) -> PhononDataModule:
        """The data.

        Args:
            model: whose cutoff and elements they are read for.

        Raises:
            PFTError: they cannot be read, or do not fit the model.
        """


class RunRecord(Protocol):
    """A run as its folder holds it, to be exported.

    A class of this kind is called with the configuration of the run, whose values are
    checked, and its folder.

    Attributes:
        config: in which ``model.checkpoint`` is the file that holds the network.
    """

    config: DictConfig

    def identify_base_model(self) -> dict[str, Any]:
        """Name and SHA-256 of the file that training started from; empty for none.

        Raises:
            CheckpointError: the potential needs it, and it is gone or has changed.
        """

    def build_module(self) -> PhononFineTuning:
        """The module without what trains it, to be given the weights of a checkpoint.

        Raises:
            PFTError: it cannot be made of what the configuration says.
        """

    def upstream_sources(self) -> dict[str, list[str]]:
        """Names, without folders, of the files of frames: ``train`` and ``val``."""
