"""The folder of a training run: what is written there, and when it may be reused."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pft_lightning.backends.registry import find_model_file
from pft_lightning.errors import CheckpointError, ConfigError, DataFormatError
from pft_lightning.evaluation.folder import COMMAND_FILE
from pft_lightning.files import (
    compute_sha256,
    make_folder,
    remove_partials,
    write_atomically,
    writing,
)
from pft_lightning.json_files import read_json, write_json
from pft_lightning.locks import locked
from pft_lightning.runs.resuming import check_kept
from pft_lightning.training.checkpoint_io import read_checkpoint


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
    "nequip-allegro",
    "sevenn",
    "phono3py",
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


# Without these a configuration is none of a training.
_PARTS = ("model", "loss", "data", "trainer")

# What a checkpoint holds that training continues from.
_STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")

LOCK = "run.lock"

# What launchers (torchrun, SLURM, LSF, Lightning) tell a process of its place, before
# there is a trainer; in the first one all are 0, or not there.
_RANKS = (
    "RANK",
    "SLURM_PROCID",
    "JSM_NAMESPACE_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "LOCAL_RANK",
)

_REMEDY = "Delete it; resume=true writes it again."
_REMEDIES = {"base_model.json": "Start another run, or put back a copy of it."}


class RunFolder:
    """Files of one run.

    ``config.yaml`` (resolved), ``versions.json``, ``command.txt``, ``before.json``
    (validation of the starting weights), ``base_model.json`` (name and SHA-256 of
    the file that training started from), ``checkpoints/``, the logger's files,
    ``trainable.json`` (names and sizes of what is trained), ``model.*`` (the result)
    and ``summary.json``; kinds of runs keep more, see ``TrainingRun.record``.

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
        self._wandb_id = self.path / "wandb_id.txt"
        self._config = self.path / "config.yaml"
        self._command = self.path / COMMAND_FILE

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
        """The resolved configuration that the run was started with.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            config = OmegaConf.load(self._config)
            missing = [name for name in _PARTS if not OmegaConf.select(config, name)]
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            reason = str(error).splitlines()[0]
        else:
            if isinstance(config, DictConfig) and not missing:
                return config
            reason = f"it has no {missing[0]}" if missing else "it is a list"
        raise CheckpointError(
            f"{self._config}: is not the configuration of a run as pft-train writes "
            f"it; it is damaged ({reason}). Put back a copy, or start another run."
        )

    def started_rate(self) -> float | None:
        """The learning rate that the run goes on with, if it does and has one.

        Raises:
            CheckpointError: The configuration is damaged.
        """
        if not self._config.is_file() or self.resume_checkpoint() is None:
            return None
        rate: float | None = OmegaConf.select(self.read_config(), "optimizer.lr")
        return rate

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing into the folder, which is made if need be.

        The system frees the lock when the process ends, however it ends. All processes
        of one distributed run share the lock of the first.

        Raises:
            StorageError: Another process works in it, a file is in its place, or it
                cannot be written.
        """
        if any((os.environ.get(name) or "0") != "0" for name in _RANKS):
            yield
            return
        make_folder(self.path)
        busy = (
            f"{self.path}: another process works in this folder now. Wait for its end, "
            "or choose another folder with hydra.run.dir=..."
        )
        with locked(self.path / LOCK, busy=busy):
            yield

    def check_unused(self, *, resume: bool) -> None:
        """Refuse to mix two runs.

        Raises:
            ConfigError: The folder holds a run and ``resume`` is false.
        """
        trained = self.before.exists() or self.last_checkpoint.exists()
        if trained and not resume:
            raise ConfigError(
                f"{self.path} already holds a run. Continue it with resume=true, or "
                "choose another folder with hydra.run.dir=..."
            )

    def write_start(self, config: DictConfig) -> None:
        """Record the resolved configuration, the versions and the command."""
        make_folder(self.path)
        text = OmegaConf.to_yaml(config, resolve=True)
        write_atomically(self._config, lambda file: file.write(text.encode()))
        write_json(self.path / "versions.json", collect_versions())
        # Without resume it is another run, whatever one that failed has left.
        if not (config.get("resume") and self.base_model.exists()):
            write_json(self.base_model, _identify_base_model(config))
        with writing(self._command), self._command.open("ab") as file:
            file.write((shlex.join(sys.argv) + "\n").encode(errors="surrogateescape"))

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
            content = self.read(self.base_model)
            recorded = content.get("sha256", "none")
            if (content and recorded == "none") or not isinstance(recorded, str):
                raise CheckpointError(
                    f"{self.base_model}: has no sha256 of the base model; it is "
                    f"damaged. {_REMEDIES[self.base_model.name]}"
                )
            if (sha256 := found.get("sha256", "none")) != recorded:
                raise CheckpointError(
                    f"{config.model.checkpoint}: is not the file that the run in "
                    f"{self.path} started from: SHA-256 {sha256[:12]}… instead of "
                    f"{recorded[:12]}…. Put the original back."
                )
        return found

    def read_before(self) -> dict[str, Any]:
        """Metrics of the starting weights, None where one is not finite.

        Raises:
            DataFormatError: The file is damaged.
        """
        metrics = self.read(self.before)
        wrong = [name for name, value in metrics.items() if not _is_metric(value)]
        if wrong or not metrics:
            reason = f"{wrong[0]} is {metrics[wrong[0]]!r}" if wrong else "it is empty"
            raise DataFormatError(
                f"{self.before}: expected metrics of a validation, but {reason}. "
                f"{_REMEDY}"
            )
        return metrics

    def read(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            DataFormatError: It is damaged.
        """
        return read_json(path, remedy=_REMEDIES.get(path.name, _REMEDY))

    def continued_log(self, logger: DictConfig) -> dict[str, Any]:
        """Arguments with which a logger adds to the log of the run's first part.

        The CSV logger empties the folder of an existing version, so it gets the next
        one; W&B goes on with its run.
        """
        if str(logger.get("_target_", "")).endswith("CSVLogger"):
            parts = len(list(self.path.glob(f"{logger.version}*")))
            return {"version": f"{logger.version}-{parts}"} if parts else {}
        if self._wandb_id.exists():
            return {"id": self._wandb_id.read_text(encoding="utf-8"), "resume": "allow"}
        return {}

    def write_wandb_id(self, run_id: str) -> None:
        """Remember which W&B run this is."""
        self._wandb_id.write_text(run_id, encoding="utf-8")

    def resume_checkpoint(self) -> Path | None:
        """The newest checkpoint that training can continue from."""
        return self.last_checkpoint if self.last_checkpoint.exists() else None

    def check_resumable(self, config: DictConfig, own: Sequence[str] = ()) -> None:
        """Refuse to continue a run with what it was not started with.

        Args:
            config: With which it is to be continued.
            own: Further options that a kind of run cannot change.

        Raises:
            CheckpointError: The base model or what ``check_kept`` compares is another
                one, or a file of the run is damaged.
        """
        remove_partials(self.checkpoints)
        if not self._config.is_file():
            return  # It was stopped before anything was computed.
        if self.base_model.exists():
            self.check_base_model(config)
        if self.resume_checkpoint() is not None:
            check_kept(self.read_config(), config, self.path, own)
        if self.before.exists():
            self.read_before()
        if self.summary.exists():
            self.read(self.summary)
        if (last := self.resume_checkpoint()) is not None:
            read_checkpoint(last, parts=_STATE, remedy=self._remedy())

    def _remedy(self) -> str:
        best, last = self.best_checkpoint, self.last_checkpoint
        if best.exists():
            return (
                f"To go on from the best weights, which are older: cp {best} {last} "
                "and the same command."
            )
        return f"There is no other one in {self.checkpoints}: start another run."


def _is_metric(value: object) -> bool:
    if value is None:  # what has no value, e.g. a precision without predictions
        return True
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _identify_base_model(config: DictConfig) -> dict[str, Any]:
    checkpoint = config.model.checkpoint
    if checkpoint is None:
        return {}  # the run starts from random weights
    path = find_model_file(checkpoint, config.model.backend)
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint}: the base model of the run is not there. Put it back; a "
            f"relative path is taken from the working folder, {Path.cwd()}."
        )
    return {"file": Path(checkpoint).name, "sha256": compute_sha256(path)}
