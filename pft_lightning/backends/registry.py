"""Backends by name, and loading a model by what its file holds.

Importing this module imports no backend library. A new backend adds one
``Backend`` entry; its module offers ``load(path, *, dtype, device, head, trust)``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.reading.content import (
    MACE_PORTABLE,
    FileContent,
    read_content,
)
from pft_lightning.errors import BackendUnavailableError, CheckpointError, ConfigError


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of the registry.

    Attributes:
        name: what users write in ``backend=``.
        module: import path, imported on first use.
        library: importable name of the library behind it; empty for none.
        extra: of this package, to install the library.
        conflict: what cannot share an environment with it, for the error message.
        kind: what its files are, in words.
        recognise: whether a file belongs to it.
    """

    name: str
    module: str
    library: str
    extra: str
    conflict: str
    kind: str
    recognise: Callable[[FileContent], bool]


def _is_mace(content: FileContent) -> bool:
    if MACE_PORTABLE in content.strings:
        return True
    return any(c.startswith("mace.") for c in content.classes)


def _is_nequip(content: FileContent) -> bool:
    if content.is_code:
        return True
    # A checkpoint names its builders as strings; extensions of NequIP bring
    # training modules of their own but keep NequIP's layout.
    return {"hyper_parameters", "info_dict", "training_module"} <= content.strings


def _is_nequix(content: FileContent) -> bool:
    return {"hidden_irreps", "radial_polynomial_p", "atom_energies"} <= content.header


def _is_pair(content: FileContent) -> bool:
    return "pft_lightning.pair_potential" in content.strings


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="pair",
            module="pft_lightning.backends.pair",
            library="",
            extra="",
            conflict="",
            kind="pair potential",
            recognise=_is_pair,
        ),
        Backend(
            name="nequip",
            module="pft_lightning.backends.nequip.model",
            library="nequip",
            extra="nequip",
            conflict="mace",
            kind="NequIP checkpoint or package",
            recognise=_is_nequip,
        ),
        Backend(
            name="mace",
            module="pft_lightning.backends.mace.model",
            library="mace",
            extra="mace",
            conflict="nequip",
            kind="MACE model",
            recognise=_is_mace,
        ),
        Backend(
            name="nequix",
            module="pft_lightning.backends.nequix.model",
            library="e3nn",
            extra="nequix",
            conflict="mace",
            kind="Nequix model",
            recognise=_is_nequix,
        ),
    )
}


def load_model(
    path: str | Path,
    *,
    backend: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    head: str | None = None,
    trust: bool = False,
) -> EnergyModel:
    """Load a potential; the backend follows from the content of the file.

    MACE ``.model`` files and NequIP checkpoints are pickles, which can run code: one
    that refers to anything that a network does not need is refused. NequIP packages
    are code, which runs.

    Args:
        path: MACE ``.model`` or portable ``.safetensors``, NequIP checkpoint or
            package, Nequix ``.pt`` or ``.nqx``, or the name of a MACE foundation model
            (``small``, ``medium``, ``mh-1``, …), which MACE's own downloader fetches.
        backend: expected backend; an error if the file belongs to another one.
        dtype: ``float32`` or ``float64``; default: as stored.
        device: where to put the parameters.
        head: output head (MACE only); needed where the model has several.
        trust: import and call what else the file refers to; for files whose author
            you know.

    Raises:
        CheckpointError: missing, truncated, unknown, of another backend, or referring
            to what no network needs.
        BackendUnavailableError: the library is not installed.
        ConfigError: unknown backend, dtype, device or head.
    """
    resolved = parse_dtype(dtype)
    device = parse_device(device)
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {path!r}; expected the name of a model file.")
    if not isinstance(trust, bool):
        raise ConfigError(f"trust={trust!r}; expected true or false.")
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r}; expected one of {sorted(BACKENDS)}.")
    path = find_model_file(path, backend)
    content = read_content(path)
    entry = recognise(content, backend)
    model: EnergyModel = import_backend(entry.name).load(
        path, dtype=resolved, device=device, head=head, trust=trust
    )
    # Energies of atoms and scales are weights too, which no optimiser changes.
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{path}: the weight {name} holds NaN or infinity. The file is of a "
                "training that failed, or damaged."
            )
    return model


def find_model_file(path: str | Path, backend: str | None = None) -> Path:
    """The file itself, or that of the MACE foundation model of this name.

    Raises:
        CheckpointError: the name of none, or it could not be downloaded.
    """
    if Path(path).exists() or not _may_be_foundation_name(str(path), backend):
        return Path(path)
    if importlib.util.find_spec(BACKENDS["mace"].library) is None:
        raise CheckpointError(
            f"{str(path)!r}: no such file. The name of a MACE foundation model? "
            'Then install MACE: pip install "pft_lightning[mace]".'
        )
    found: Path = import_backend("mace").download_foundation_model(str(path))
    return found


def runs_code(path: str | Path) -> bool:
    """Tell whether loading a file always runs code that it brings (NequIP packages).

    Raises:
        CheckpointError: it cannot be read.
    """
    return read_content(find_model_file(path)).is_code


def recognise(content: FileContent, expected: str | None = None) -> Backend:
    """The backend that a file belongs to.

    Raises:
        CheckpointError: none, or another than expected.
    """
    for entry in BACKENDS.values():
        if not entry.recognise(content):
            continue
        if expected not in (None, entry.name):
            raise CheckpointError(
                f"{content.path}: is a {entry.kind}, but backend={expected!r} was "
                f"asked for. Use backend={entry.name!r}, or leave it out."
            )
        return entry
    kinds = ", ".join(entry.kind for entry in BACKENDS.values())
    raise CheckpointError(
        f"{content.path}: not a model file known here; it looks like "
        f"{content.describe()}. Known: {kinds}."
    )


def import_backend(name: str) -> ModuleType:
    """Import the module of a backend.

    Raises:
        BackendUnavailableError: its library is not installed, or of a version without
            what is needed of it.
    """
    entry = BACKENDS[name]
    if entry.library and importlib.util.find_spec(entry.library) is None:
        raise BackendUnavailableError(
            f"Backend {name!r} is not installed: pip install "
            f'"pft_lightning[{entry.extra}]" (cannot share an environment with '
            f"{entry.conflict!r})."
        )
    try:
        return importlib.import_module(entry.module)
    except BackendUnavailableError:
        raise
    except (ImportError, AttributeError) as error:
        raise BackendUnavailableError(
            f"Backend {name!r}: the {entry.library} that is installed lacks what is "
            f"needed of it ({error}). Install a version that fits: pip install "
            f'"pft_lightning[{entry.extra}]".'
        ) from error


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """``float32`` and ``float64``, as a name or as torch's own.

    Raises:
        ConfigError: anything else.
    """
    known = {"float32": torch.float32, "float64": torch.float64}
    if dtype is None or dtype in known.values():
        return dtype  # type: ignore[return-value]
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ConfigError(f"dtype={dtype!r}; expected one of {sorted(known)}.")
    return known[name]


def parse_device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        ConfigError: it is not, or has no such name.
    """
    accepted = "cpu, cuda or cuda:N"
    try:
        parsed = torch.device(device)
        torch.zeros(1, device=parsed).item()  # "meta" holds no numbers
    # Devices that are missing or not compiled in are reported in many ways.
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device={str(device)!r} is not available here "
            f"({str(error).splitlines()[0]}); expected {accepted}, where "
            f"{torch.cuda.device_count()} CUDA devices are present."
        ) from error
    return parsed


def _may_be_foundation_name(text: str, backend: str | None) -> bool:
    """A bare word without a file extension; MACE then says whether it knows it."""
    if backend not in (None, "mace") or "/" in text or "\\" in text:
        return False
    return "." not in text
