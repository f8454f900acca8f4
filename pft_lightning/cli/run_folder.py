"""The folder of a training run: what is written there, and when it may be reused."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pft_lightning.backends.registry import find_model_file
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.files import compute_sha256


_PACKAGES = (
    "pft_lightning",
    "torch",
    "lightning",
    "torch-geometric",
    "phonopy",
    "ase",
    "vesin",
    "e3nn",
    "mace-torch",
    "nequip",
)


def collect_versions() -> dict[str, str]:
    """Versions of everything that decides a number; absent packages are left out."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class RunFolder:
    """Files of one run.

    ``config.yaml`` (resolved), ``versions.json``, ``command.txt``, ``before.json``
    (validation of the starting weights), ``base_model.json`` (name and SHA-256 of
    the file that training started from), ``checkpoints/``, the logger's files,
    ``trainable.json`` (names and sizes of what is trained), ``model.*`` (the result)
    and ``summary.json``; with ``mace_config`` also the network that MACE built.

    Args:
        path: The folder; created if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.before = self.path / "before.json"
        self.summary = self.path / "summary.json"
        self.trainable = self.path / "trainable.json"
        self.base_model = self.path / "base_model.json"
        self.mace_network = self.path / "mace" / "network.safetensors"
        self._wandb_id = self.path / "wandb_id.txt"
        self._config = self.path / "config.yaml"

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """The folder of a run that was started.

        Raises:
            CheckpointError: There is none.
        """
        folder = cls(path)
        if not folder._config.is_file():
            raise CheckpointError(
                f"{folder.path} holds no run: {folder._config.name} is missing. Give "
                "the folder of a pft-train run."
            )
        return folder

    def read_config(self) -> DictConfig:
        """The resolved configuration that the run was started with."""
        config = OmegaConf.load(self._config)
        assert isinstance(config, DictConfig)
        return config

    def check_unused(self, *, resume: bool) -> None:
        """Refuse to mix two runs.

        Raises:
            ConfigError: The folder holds a run and ``resume`` is false.
        """
        if self.before.exists() and not resume:
            raise ConfigError(
                f"{self.path} already holds a run. Continue it with resume=true, or "
                "choose another folder with hydra.run.dir=..."
            )

    def write_start(self, config: DictConfig) -> None:
        """Record the resolved configuration, the versions and the command."""
        self.path.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, self._config, resolve=True)
        write_json(self.path / "versions.json", collect_versions())
        if not self.base_model.exists():
            write_json(self.base_model, _identify_base_model(config))
        with (self.path / "command.txt").open("a") as file:
            file.write(shlex.join(sys.argv) + "\n")

    def check_base_model(self, config: DictConfig) -> dict[str, Any]:
        """Name and SHA-256 of the file that training started from, if there was one.

        Runs of earlier versions did not record it; for them it is that of the file that
        is there now.

        Args:
            config: of the run.

        Raises:
            CheckpointError: the file is gone, or has changed.
        """
        found = _identify_base_model(config)
        if self.base_model.exists():
            recorded = read_json(self.base_model).get("sha256", "none")
            if (sha256 := found.get("sha256", "none")) != recorded:
                raise CheckpointError(
                    f"{config.model.checkpoint}: is not the file that the run in "
                    f"{self.path} started from: SHA-256 {sha256[:12]}… instead of "
                    f"{recorded[:12]}…. Put the original back."
                )
        return found

    def continued_log(self, logger: DictConfig) -> dict[str, Any]:
        """Arguments with which a logger adds to the log of the run's first part.

        The CSV logger empties the folder of an existing version, so it gets the next
        one; W&B goes on with its run.
        """
        if str(logger.get("_target_", "")).endswith("CSVLogger"):
            parts = len(list(self.path.glob(f"{logger.version}*")))
            return {"version": f"{logger.version}-{parts}"} if parts else {}
        if self._wandb_id.exists():
            return {"id": self._wandb_id.read_text(), "resume": "allow"}
        return {}

    def write_wandb_id(self, run_id: str) -> None:
        """Remember which W&B run this is."""
        self._wandb_id.write_text(run_id)

    def resume_checkpoint(self) -> Path | None:
        """The newest checkpoint that training can continue from."""
        return self.last_checkpoint if self.last_checkpoint.exists() else None


def _identify_base_model(config: DictConfig) -> dict[str, Any]:
    checkpoint = config.model.checkpoint
    if checkpoint is None:
        return {}  # A mace_run_train configuration that starts from random weights.
    path = find_model_file(checkpoint, config.model.backend)
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint}: the base model of the run is not there. Put it back; a "
            f"relative path is taken from the working folder, {Path.cwd()}."
        )
    return {"file": Path(checkpoint).name, "sha256": compute_sha256(path)}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a killed process never leaves half of it."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content
