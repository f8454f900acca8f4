"""SevenNet checkpoints: finding them by name, building their networks, writing."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import e3nn
import sevenn
import sevenn._keys as names
import torch
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.model_build import build_E3_equivariant_model
from sevenn.nn.scale import get_resolved_shift_scale
from sevenn.util import get_available_pretrained_models, pretrained_name_to_path

from pft_lightning.backends.sevennet.check import read_checkpoint
from pft_lightning.errors import CheckpointError
from pft_lightning.files import write_atomically


SUFFIX = ".pth"

# What sums the energies of atoms, and what derives forces.
_AFTER_ENERGIES = ("reduce_total_enegy", "force_output")
_RESCALE = "rescale_atomic_energy"


def find_foundation_model(name: str) -> Path:
    """The file of a published model, from the installed package or downloaded.

    Args:
        name: such as ``7net-0``, as SevenNet's own calculator takes it.

    Raises:
        CheckpointError: the name of none, or it could not be downloaded.
    """
    try:
        return Path(pretrained_name_to_path(name))
    except ValueError as error:
        known = ", ".join(get_available_pretrained_models())
        raise CheckpointError(
            f"{name!r}: no such file, and no published SevenNet model of this name. "
            f"Known: {known}."
        ) from error
    # SevenNet downloads by itself, which fails in any way.
    except Exception as error:
        raise CheckpointError(
            f"{name!r}: SevenNet could not download it ({error}). Download it where "
            "there is a network, and give the path of the file."
        ) from error


def read(path: Path, *, trust: bool = False) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the network of a checkpoint, up to the energies of atoms.

    Args:
        path: file.
        trust: open it whatever it refers to.

    Returns:
        The network, and the configuration that writing another file takes.

    Raises:
        CheckpointError: damaged, or SevenNet cannot build it.
    """
    content = read_checkpoint(path, trust=trust)
    with tempfile.TemporaryDirectory() as folder:
        # SevenNet unpickles whatever a file holds: it gets what was checked alone.
        checked = Path(folder) / path.name
        kept = {name: content[name] for name in ("config", "model_state_dict")}
        torch.save(kept, checked)
        try:
            with _eager():
                checkpoint = SevenNetCheckpoint(checked)
                network, config = checkpoint.build_model(), checkpoint.config
                _restore_precision(network, content["model_state_dict"])
        # SevenNet asserts and indexes, so that a wrong file fails in any way.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            raise CheckpointError(
                f"{path}: SevenNet {sevenn.__version__} cannot build its network "
                f"({reason.rstrip(': ')}). It is damaged, or of a version that this "
                "one does not read."
            ) from error
    _check_denominators(path, network)
    return _up_to_energies(network), config


def draw_weights(config: Mapping[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Parameters as SevenNet draws them, without statistics of training data.

    Args:
        config: from ``read``.
        seed: of the draw.
    """
    with _eager():
        torch.manual_seed(seed)
        network = _up_to_energies(build_E3_equivariant_model(dict(config)))
    return {
        name: parameter.detach()
        for name, parameter in network.named_parameters()
        if not name.startswith(f"{_RESCALE}.") and not name.endswith(".denominator")
    }


def write(path: Path, config: Mapping[str, Any], network: torch.nn.Module) -> None:
    """Write a checkpoint for the installed version of SevenNet.

    Its record of how the original was trained stays; its optimiser state does not.

    Args:
        path: file to write; an existing one is replaced.
        config: from ``read``.
        network: with weights that are computed from no others.
    """
    shift, scale = get_resolved_shift_scale(
        network.get_submodule(_RESCALE),
        config[names.TYPE_MAP],
        config.get(names.MODAL_MAP),
    )
    # The weights of an older version were sorted anew when it was read.
    current = {"version": sevenn.__version__, names.SHIFT: shift, names.SCALE: scale}
    # Nor are they laid out for other kernels any more.
    plain = {
        names.USE_FLASH_TP: False,
        names.USE_OEQ: False,
        names.CUEQUIVARIANCE_CONFIG: {"use": False},
    }
    content = {
        "config": copy.deepcopy(dict(config)) | current | plain,
        "epoch": 0,
        "model_state_dict": {
            name: value.detach().cpu() for name, value in network.state_dict().items()
        },
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
    }
    write_atomically(path, lambda file: torch.save(content, file))


def _check_denominators(path: Path, network: torch.nn.Module) -> None:
    """Refuse a file whose messages would be divided by nothing."""
    for name, value in network.named_parameters():
        if name.endswith(".denominator") and bool((value <= 0).any()):
            raise CheckpointError(
                f"{path}: the weight {name} is {value.min().item():g}; a positive "
                "number is needed. Its training failed, or it is damaged: copy or "
                "download it again."
            )


def _restore_precision(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor]
) -> None:
    """Weights as ``write`` kept them: SevenNet builds float32, and rounds to it."""
    if any(value.dtype == torch.float64 for value in weights.values()):
        network.double().load_state_dict(weights)


def _up_to_energies(network: Any) -> torch.nn.Module:
    for name in _AFTER_ENERGIES:
        network.delete_module_by_key(name)
    found: torch.nn.Module = network
    return found


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Build what torch.func can differentiate; SevenNet's words are not for users."""
    before = e3nn.get_optimization_defaults()["jit_mode"]
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
    ):
        warnings.simplefilter("ignore")
        e3nn.set_optimization_defaults(jit_mode="eager")
        try:
            yield
        finally:
            e3nn.set_optimization_defaults(jit_mode=before)
