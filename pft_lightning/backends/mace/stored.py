"""What a MACE ``.model`` file stores, read without running any of it.

The file pickles a whole module, with code that e3nn generated: TorchScript, or Python
source that is compiled when it is read. Modules are restored here as ``Stored``: their
attributes, tensors and children under the names of their classes, so that no method of
a class of MACE or e3nn runs on what a file holds, whatever its version.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch

from pft_lightning.backends.mace.files import extract_config
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.backends.reading.unpickling import REMEDY, read_saved, read_trusted
from pft_lightning.errors import CheckpointError


with keep_global_state():
    import mace
    from e3nn.o3 import Irrep, Irreps
    from mace.modules.blocks import InteractionBlock


# Networks whose output is one energy; MACE's others need charges, fields or dipoles.
SUPPORTED = ("ScaleShiftMACE", "MACE")

_VALUES = {
    "e3nn.o3._irreps.Irreps": Irreps,
    "e3nn.o3._irreps.Irrep": Irrep,
    "e3nn.o3._irreps._MulIr": type(Irreps("0e")[0]),
    "builtins.slice": slice,
    "torch.dtype": torch.dtype,
}
# Where functions of one tensor are named, and those that a network may apply.
_FUNCTION_MODULES = ("torch", "torch.nn.functional", "torch._C._nn")
_FUNCTIONS = (
    *("abs", "celu", "elu", "gelu", "hardtanh", "leaky_relu", "mish", "relu"),
    *("selu", "sigmoid", "silu", "softplus", "tanh"),
)
# Packages of kernels -> MACE's module that converts a network back.
_KERNELS = {
    "cuequivariance": "convert_cueq_e3nn",
    "cuequivariance_torch": "convert_cueq_e3nn",
    "openequivariance": "convert_oeq_e3nn",
}
_CONTAINERS = ("ModuleList", "ModuleDict", "Sequential", "ParameterList")


class Stored(torch.nn.Module):
    """A module of a file: what it holds under the name of its class, without code.

    Its state cannot bring hooks, which torch would call.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Stored:
        """Take no notice of arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        torch.nn.Module.__init__(self)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(torch.nn.Module().__dict__)
        if isinstance(state, dict):
            kept = {k: v for k, v in state.items() if "hook" not in str(k)}
            kept.pop("__codegen__", None)
            self.__dict__.update(kept)


class _TorchFunctions:
    """Stands for the class whose members torch's functions are."""


def read_module(path: Path, *, trust: bool = False) -> Stored:
    """Open a ``.model`` file far enough to read its weights and its architecture.

    The result cannot compute energies.

    Args:
        path: file.
        trust: import and call what else it refers to.

    Raises:
        CheckpointError: not a pickled MACE energy model, damaged, or it refers to
            something that a network does not need.
    """
    module = (read_trusted if trust else read_saved)(path, _stand_in)
    if isinstance(module, dict):
        raise CheckpointError(
            f"{path}: holds a dictionary ({', '.join(map(str, list(module)[:4]))}), "
            "not a model. A checkpoint (.pt) of mace_run_train? Give the .model file "
            "that it writes at the end."
        )
    if type(module).__name__ not in SUPPORTED or not isinstance(module, Stored):
        raise CheckpointError(
            f"{path}: holds a {type(module).__name__}; only energy models are "
            f"supported: {', '.join(SUPPORTED)}."
        )
    return module


def describe(stored: Stored) -> dict[str, Any]:
    """Arguments with which MACE builds a network of the same architecture.

    Raises:
        CheckpointError: it is of a kind that MACE cannot build again from them.
    """
    _check_kind(stored)
    try:
        config = extract_config(stored)
    except CheckpointError:
        raise
    # A damaged module may lack, or hold in place of anything, whatever MACE looks for.
    except Exception as error:
        raise CheckpointError(
            "the file does not hold what describes a MACE network "
            f"({type(error).__name__}: {error}). Copy or download it again; a file of "
            "another version of MACE needs that version, or MACE's own converter."
        ) from error
    for key in ("interaction_cls", "interaction_cls_first"):
        config[key] = _mace_class(config[key], InteractionBlock)
    config["readout_cls"] = _mace_class(config["readout_cls"], torch.nn.Module)
    config["cueq_config"] = None  # it is not enabled, see above
    return config


def _check_kind(stored: Stored) -> None:
    """Refuse by name what would be built as something else."""
    kinds = {type(module).__name__ for module in stored.modules()}
    if adapters := sorted(kind for kind in kinds if kind.startswith("LoRA")):
        raise CheckpointError(
            f"the network holds adapters that are not merged ({', '.join(adapters)}). "
            "Merge them with MACE's merge_lora_weights, and save it again."
        )
    for kind, name in (("GaussianBasis", "gaussian"), ("ChebychevBasis", "chebyshev")):
        if kind in kinds:
            raise CheckpointError(
                f"radial_type={name}: MACE's description of a network does not say how "
                "to build such a one again; only bessel is supported."
            )
    if specs := getattr(stored, "embedding_specs", None):
        raise CheckpointError(
            f"the network takes {', '.join(map(str, specs))} as input beside the "
            "structure (embedding_specs), which phonon data do not have. Use a model "
            "without it."
        )


def _mace_class(stored: Any, parent: type) -> type:
    """The class of the installed MACE that a stored one is named after."""
    found: Any = None
    if isinstance(stored, type) and stored.__module__.startswith("mace.modules."):
        found = getattr(importlib.import_module(stored.__module__), stored.__name__)
    if not (isinstance(found, type) and issubclass(found, parent)):
        raise CheckpointError(
            f"the network holds a {getattr(stored, '__name__', stored)} where MACE has "
            f"a {parent.__name__}; the file is damaged."
        )
    return found


def _stand_in(module: str, name: str) -> Any:
    """What stands for a global of a ``.model`` file; None where nothing may."""
    root, full = module.partition(".")[0], f"{module}.{name}"
    if full in _VALUES:
        return _VALUES[full]
    if module in _FUNCTION_MODULES and name in _FUNCTIONS:
        return getattr(importlib.import_module(module), name)
    if full == "torch._C._VariableFunctionsClass":
        return _TorchFunctions
    if full in ("builtins.getattr", "__builtin__.getattr"):
        return _member
    if module.startswith("torch.nn.modules."):
        return _stored_class(module, name) if hasattr(torch.nn, name) else None
    if root == "mace":
        return _check_installed(module, name)
    if root in _KERNELS:
        raise CheckpointError(
            f"the network uses kernels of {root}, which cannot be differentiated three "
            f"times. Convert it to e3nn first: python -m mace.cli.{_KERNELS[root]}."
        )
    # Whatever e3nn and torch.fx call there, of any version, is not called.
    if root == "e3nn" or module.startswith("torch.fx."):
        return _stored_class(module, name)
    return None


@functools.cache
def _stored_class(module: str, name: str) -> type[Stored]:
    bases: tuple[type, ...] = (Stored,)
    if module == "torch.nn.modules.container" and name in _CONTAINERS:
        bases = (Stored, getattr(torch.nn, name))
    return type(name, bases, {"__module__": module})


def _check_installed(module: str, name: str) -> type[Stored] | None:
    """A class that the installed MACE lacks would be left out of the network."""
    try:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"there is no {module}")
        if not module.startswith("mace.modules"):
            return None
        found = getattr(importlib.import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise CheckpointError(
            f"the file refers to {module}.{name}, which the MACE installed here, "
            f"{mace.__version__}, lacks ({error}). It was written by another version: "
            "install that one, or convert the file with MACE's own converter."
        ) from error
    return _stored_class(module, name) if isinstance(found, type) else None


def _member(owner: Any, name: Any) -> Any:
    """The one use of ``getattr`` in these files: a function of torch."""
    if owner is not _TorchFunctions or name not in _FUNCTIONS:
        raise CheckpointError(
            f"refers to {str(name)[:100]} of torch, which no network needs. {REMEDY}"
        )
    return getattr(torch, name)
