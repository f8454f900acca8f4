"""Objects that torch.save wrote, read through an allow-list: data, never programs.

A pickle names functions and classes, and opening it calls them. torch's own unpickler
of weights calls none but those that it is given; which these are is decided here by
name, before the file is opened.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pft_lightning.backends.reading.content import read_content
from pft_lightning.errors import CheckpointError


# Module and name of a global of a pickle -> what stands for it; None refuses it.
Resolver = Callable[[str, str], Any]

REMEDY = (
    "Opening it could run code of whoever wrote it. If you know where the file comes "
    "from: model.trust=true on the command line (compare.LABEL.trust=true for a "
    "compared one), load_model(..., trust=True) in Python."
)

_OLD = (
    "It is in the format that torch wrote before version 1.6, where networks hold "
    "their source code. Save it again where it was made, with a later torch: "
    "torch.save(torch.load(FILE, weights_only=False), NEW_FILE)."
)

# How it begins to say that it does not do what a pickle asks for.
_REFUSALS = ("Unsupported", "Only persistent_load", "Can only", "Trying to")
# What torch's unpickler of weights knows itself; it refuses whatever it does not.
_TORCH = re.compile(
    r"torch\.(\w*Storage|Size|Tensor|device|bool|b?float\w*|u?int\w*|complex\w*|half"
    r"|double|long|short)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.storage\.\w+Storage"
    r"|torch\.serialization\._get_layout"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|builtins\.(set|complex|bytearray)"
)
_NUMPY = {
    "dtype": np.dtype,
    "ndarray": np.ndarray,
    "core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "core.multiarray.scalar": np.float64(0).__reduce__()[0],
}
_DTYPES = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSU"}


def no_more(module: str, name: str) -> None:
    """Resolver of files that hold tensors and plain values only."""
    del module, name


def read_saved(path: Path, resolve: Resolver = no_more) -> Any:
    """What torch.save wrote, with nothing called but what is allowed.

    Args:
        path: archive, or bare pickles of torch before version 1.6.
        resolve: what stands for globals beyond tensors, numpy's arrays and containers.

    Raises:
        CheckpointError: damaged, or it refers to something that is not allowed.
    """
    stand_ins: dict[str, Any] = {f"numpy.dtypes.{t.__name__}": t for t in _DTYPES}
    refused = []
    for name in read_content(path).classes:
        module, _, attribute = _renamed(name).rpartition(".")
        full = f"{module}.{attribute}"
        if _TORCH.fullmatch(full):
            continue
        found = _find_numpy(full)
        if found is None:
            try:
                found = resolve(module, attribute)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from error
        if found is None:
            refused.append(full)
        else:
            stand_ins[full] = found
    if refused:
        raise refusal(path, refused)
    return _open(path, [(value, name) for name, value in stand_ins.items()])


def read_trusted(path: Path, resolve: Resolver) -> Any:
    """The same, with whatever else the file refers to imported and called.

    Raises:
        CheckpointError: damaged, or it refers to what is not installed.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = resolve(module, name)
            return super().find_class(module, name) if found is None else found

    pickle_module = types.ModuleType("pft_lightning_unpickler")
    pickle_module.Unpickler = Unpickler  # type: ignore[attr-defined]
    pickle_module.load = pickle.load  # type: ignore[attr-defined]
    options = {"weights_only": False, "pickle_module": pickle_module}
    return _load(path, **options)


def refusal(path: Path, names: Iterable[str]) -> CheckpointError:
    """Error that names what a file refers to beyond the allowed."""
    listed = list(names)
    shown = ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
    return CheckpointError(
        f"{path}: refers to {shown}, which no model file of this kind needs. {REMEDY}"
    )


def _open(path: Path, stand_ins: list[Any]) -> Any:
    with torch.serialization.safe_globals(stand_ins):
        return _load(path, weights_only=True)


def _load(path: Path, **options: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", **options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    # A damaged pickle calls what it may with anything, which fails in any way.
    except Exception as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        reason = (reason.strip() or type(error).__name__).splitlines()[0]
        advice = "Copy or download it again."
        if reason.startswith(_REFUSALS):
            advice = REMEDY if zipfile.is_zipfile(path) else f"{_OLD} {REMEDY}"
        raise CheckpointError(
            f"{path}: cannot be read ({reason[:300]}). {advice}"
        ) from error


def _renamed(name: str) -> str:
    """As Python 3 calls it; torch.save writes the names of Python 2."""
    module, _, attribute = name.rpartition(".")
    pair = (module, attribute)
    if pair in _compat_pickle.NAME_MAPPING:
        return ".".join(_compat_pickle.NAME_MAPPING[pair])
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{attribute}"


def _find_numpy(name: str) -> Any:
    """Of numpy 1 (``core``) or 2 (``_core``)."""
    root, _, rest = name.partition(".")
    return _NUMPY.get(rest.removeprefix("_")) if root == "numpy" else None
