"""What ``mace_run_train`` prepares: data, network and loss, taken before it trains.

MACE reads its options, its data and its foundation models in one long function that
ends in a call of its training loop. That function runs here as it is, and the loop is
replaced by one that notes what it was given. So everything before the first step is
MACE's own, whatever its version.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
import numpy as np
import torch

from pft_lightning.backends.mace.model import write_harmless
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.integrations.mace.arguments import NAMED_DATA


with keep_global_state():
    from mace import tools
    from mace.cli import run_train


_FOLDERS = ("work_dir", "log_dir", "model_dir", "checkpoints_dir", "results_dir")

# Options that are not MACE's to act on: adapters, logging, figures, processes, devices.
_OURS = {
    "lora": False,
    "freeze": None,
    "wandb": False,
    "plot": False,
    "distributed": False,
    "device": "cpu",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What MACE would train, with what, on what.

    Attributes:
        arguments: options, completed by MACE (heads, learning rate of a multihead
            fine-tuning, start of stage two).
        network: with its initial weights.
        loss: of the frames, called with ``pred`` and ``ref``.
        train_loader: of the frames.
        valid_loaders: by head; the last one decides on schedule and patience.
        outputs: which of ``forces``, ``virials`` and ``stress`` the loss needs.
        keeps_energies: the energies of free atoms are those of the foundation model,
            although ``E0s`` or isolated atoms of the frames say otherwise.
    """

    arguments: argparse.Namespace
    network: torch.nn.Module
    loss: torch.nn.Module
    train_loader: Any
    valid_loaders: dict[str, Any]
    outputs: dict[str, bool]
    keeps_energies: bool


class _Ready(Exception):
    """MACE has come to its training loop."""


def prepare(
    arguments: argparse.Namespace, folder: Path, *, trust: bool = False
) -> Prepared:
    """Let MACE prepare a training.

    Args:
        arguments: from ``read_arguments``; left as they are.
        folder: for the log and the files that MACE writes.
        trust: let MACE open the file of a foundation model itself, and run its code.

    Raises:
        ConfigError: MACE refuses, or the network needs more than the structure.
        CheckpointError: the file of a foundation model is none, or holds more.
    """
    given, arguments = arguments, _redirected(arguments, folder)
    taken = _run_until_training(arguments, folder, trust)
    if specs := getattr(taken["model"], "embedding_specs", None):
        raise ConfigError(
            f"foundation_model={arguments.foundation_model}: the network takes "
            f"{', '.join(specs)} as input beside the structure (embedding_specs), "
            "which phonon data do not have. Start from a model without them."
        )
    for name in (*_FOLDERS, "downloads_dir", "foundation_model", *_OURS):
        setattr(arguments, name, getattr(given, name))
    return Prepared(
        arguments=arguments,
        network=taken["model"].cpu(),
        loss=taken["loss_fn"],
        train_loader=taken["train_loader"],
        valid_loaders=taken["valid_loaders"],
        outputs={k: taken["output_args"][k] for k in ("forces", "virials", "stress")},
        keeps_energies=not _has_energies(taken["model"], taken["atomic_energies"]),
    )


def _run_until_training(
    arguments: argparse.Namespace, folder: Path, trust: bool
) -> dict[str, Any]:
    """Run MACE up to its training loop.

    Returns:
        What the loop was called with, by name, and the ``atomic_energies`` (eV) of the
        network, (n_heads, n_elements).

    Raises:
        ConfigError: MACE refuses.
        CheckpointError: the file of a foundation model is none, or holds more.
    """
    taken: dict[str, Any] = {}
    configure = run_train.configure_model

    def take(**given: Any) -> None:
        taken.update(given)
        raise _Ready

    def note_energies(
        args: Any, loader: Any, atomic_energies: Any, *rest: Any, **named: Any
    ) -> Any:
        taken["atomic_energies"] = atomic_energies
        return configure(args, loader, atomic_energies, *rest, **named)

    with (
        _quarantine() as complaints,
        mock.patch.object(tools, "train", take),
        mock.patch.object(run_train, "configure_model", note_energies),
        _one_at_a_time(arguments),
        contextlib.nullcontext() if trust else _opened_as_data(folder),
    ):
        try:
            run_train.run(arguments)
        except _Ready:
            pass
        except CheckpointError:  # of _opened_as_data
            raise
        # MACE reports wrong options by assertions and exceptions of any kind.
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}".removesuffix(": ")
            reason = "; ".join([*complaints.messages, said])
            raise ConfigError(
                f"mace_run_train cannot prepare this training: {reason.rstrip('.')}."
                f"{_hint(reason)} Its log is in {folder}."
            ) from error
    return taken


@contextlib.contextmanager
def _opened_as_data(folder: Path) -> Iterator[None]:
    """Let MACE open foundation models, downloaded ones too, without the code in them.

    Args:
        folder: for a copy of the model, which holds only what MACE generates.
    """
    load, harmless = torch.load, folder / "foundation.model"

    def load_copy(f: Any, *rest: Any, **named: Any) -> Any:
        with mock.patch.object(torch, "load", load):
            write_harmless(Path(f), harmless)
        return load(harmless, *rest, **named)

    with mock.patch.object(torch, "load", load_copy):
        yield


def _hint(reason: str) -> str:
    """What a complaint of MACE does not say."""
    if "E0s" in reason or "tomic energies" in reason:
        return (
            " E0s is average, foundation, estimated, a .json file, or a dictionary "
            "of energies (eV) by atomic number; or the frames hold isolated atoms "
            "(config_type=IsolatedAtom)."
        )
    return ""


def _has_energies(network: Any, atomic_energies: np.ndarray) -> bool:
    """Whether a network has these energies of free atoms, (n_heads, n_elements), eV."""
    present = network.atomic_energies_fn.atomic_energies.detach().cpu().numpy()
    return np.allclose(present.reshape(atomic_energies.shape), atomic_energies)


@contextlib.contextmanager
def _one_at_a_time(arguments: argparse.Namespace) -> Iterator[None]:
    """Guard what processes share: replay data that MACE downloads and selects."""
    if arguments.pt_train_file not in NAMED_DATA:
        yield
        return
    # MACE writes the selection into the working folder, and reads it from there.
    with filelock.FileLock(".mace_replay.lock"):
        yield


def _redirected(arguments: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Copy of the options that writes below a folder and leaves out what we do."""
    changed = copy.deepcopy(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        setattr(changed, name, str(folder))
    if changed.downloads_dir is None:  # shared by all runs, as in MACE
        changed.downloads_dir = str(Path(arguments.work_dir) / "downloads")
    for name, value in _OURS.items():
        setattr(changed, name, value)
    return changed


class _Complaints(logging.Handler):
    """Errors that MACE logs before it goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _quarantine() -> Iterator[_Complaints]:
    """Undo what ``mace_run_train`` does to the process: dtype, loading, log."""
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(root.filters)
    complaints = _Complaints()
    root.handlers[:] = [complaints]  # others would show all of MACE's debug log
    with keep_global_state():
        # Foundation models are pickles; without this torch refuses them.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        try:
            yield complaints
        finally:
            for handler in root.handlers:
                handler.close()
            root.setLevel(before[0])
            root.handlers[:], root.filters[:] = before[1:]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """MACE's lazy data sets and losses make tensors of torch's default dtype."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)
