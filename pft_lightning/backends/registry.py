"""Backends by name, and loading a model by what its file holds.

Importing this module imports no backend library and no plug-in. A new backend adds one
``Backend`` entry, here or in a package of its own (see ``plugins``); its module offers
``load(path, *, dtype, device, head, trust)``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.plugins import Backend as Backend
from pft_lightning.backends.plugins import load_plugin, load_plugins, plugin_names
from pft_lightning.backends.reading.content import (
    MACE_PORTABLE,
    FileContent,
    read_content,
)
from pft_lightning.errors import (
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
    PFTError,
)


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


def _is_sevennet(content: FileContent) -> bool:
    return {"model_state_dict", "_type_map", "cutoff_function"} <= content.strings


def _is_pair(content: FileContent) -> bool:
    return "pft_lightning.pair_potential" in content.strings


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="pair",
            module="pft_lightning.backends.pair",
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
            foundation_names=("",),
            # Those with several heads are of several; the heads' names tell.
            functionals=(
                ("small", "PBE(+U)"),
                ("medium", "PBE(+U)"),
                ("large", "PBE(+U)"),
                ("mace-matpes-pbe", "PBE"),
                ("mace-matpes-r2scan", "r2SCAN"),
            ),
        ),
        Backend(
            name="sevennet",
            module="pft_lightning.backends.sevennet.model",
            library="sevenn",
            extra="sevennet",
            conflict="mace",
            kind="SevenNet checkpoint",
            recognise=_is_sevennet,
            foundation_names=("7net", "sevennet"),
            functionals=(
                ("7net-0", "PBE(+U)"),
                ("7net-l3i5", "PBE(+U)"),
                ("7net-omat", "PBE(+U)"),
                ("sevennet-0", "PBE(+U)"),
                ("sevennet-l3i5", "PBE(+U)"),
                ("sevennet-omat", "PBE(+U)"),
            ),
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
            package, SevenNet checkpoint, Nequix ``.pt`` or ``.nqx``, or the name of a
            foundation model of MACE (``small``, ``medium``, ``mh-1``, …) or SevenNet
            (``7net-0``, ``7net-l3i5``, …), which these find or download themselves.
        backend: expected backend; an error if the file belongs to another one.
        dtype: ``float32`` or ``float64``; default: as stored.
        device: where to put the parameters.
        head: output head (MACE) or modality (SevenNet); needed where the model has
            several.
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
    if backend is not None and backend not in (known := backend_names()):
        raise ConfigError(f"backend={backend!r}; expected one of {sorted(known)}.")
    path = find_model_file(path, backend)
    content = read_content(path)
    entry = recognise(content, backend)
    model = _load(entry, path, dtype=resolved, device=device, head=head, trust=trust)
    # Energies of atoms and scales are weights too, which no optimiser changes.
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{path}: the weight {name} holds NaN or infinity. The file is of a "
                "training that failed, or damaged."
            )
    return model


def backend_names() -> tuple[str, ...]:
    """What ``backend=`` accepts; no plug-in is imported for it."""
    return (*BACKENDS, *plugin_names(taken=BACKENDS))


def find_backend(name: str) -> Backend:
    """The row of a backend, or the plug-in, of a name.

    Args:
        name: among ``backend_names``.

    Raises:
        BackendUnavailableError: the plug-in cannot be used.
    """
    return BACKENDS[name] if name in BACKENDS else load_plugin(name)


def _load(entry: Backend, path: Path, **options: Any) -> EnergyModel:
    """Load a file; what is wrong with a plug-in is said of it.

    Raises:
        CheckpointError: the plug-in failed.
        BackendUnavailableError: what it gives is no model.
    """
    module = _import(entry)
    if not entry.is_plugin:
        built_in: EnergyModel = module.load(path, **options)
        return built_in
    try:
        model = module.load(path, **options)
    except PFTError:
        raise
    except Exception as error:  # code of others fails in any way
        raise CheckpointError(
            f"{path}: the backend {entry.name!r} of the package {entry.package} failed "
            f"to load it ({type(error).__name__}: {error}). Is the file whole? Else "
            f"update {entry.package}, or tell its authors."
        ) from error
    if not isinstance(model, EnergyModel):
        raise BackendUnavailableError(
            f"Backend {entry.name!r}: {entry.module}.load gave a "
            f"{type(model).__name__}; expected an EnergyModel. Update {entry.package}, "
            "or tell its authors."
        )
    if not entry.recognise and not model.file_suffix.endswith(entry.endings):
        raise BackendUnavailableError(
            f"Backend {entry.name!r}: its models are saved as "
            f"*{model.file_suffix}, but only {', '.join(entry.endings)} are recognised "
            f"as its own. Update {entry.package}, or tell its authors."
        )
    return model


def find_model_file(path: str | Path, backend: str | None = None) -> Path:
    """The file itself, or that of the foundation model of this name.

    Raises:
        CheckpointError: the name of none, or it could not be downloaded.
    """
    entry = None if Path(path).exists() else _publisher(str(path), backend)
    if entry is None:
        return Path(path)
    if importlib.util.find_spec(entry.library) is None:
        raise CheckpointError(
            f"{str(path)!r}: no such file. The name of a foundation model of "
            f'{entry.library}? Then install it: pip install "{entry.requirement}".'
        )
    found: Path = import_backend(entry.name).find_foundation_model(str(path))
    return found


def functional_of_foundation_model(name: str) -> str | None:
    """The functional that a foundation model of this name was trained on, if known.

    Args:
        name: such as ``7net-0``.
    """
    entry = _publisher(name, None)
    known = () if entry is None else entry.functionals
    found = (functional for start, functional in known if name.startswith(start))
    return next(found, None)


def _publisher(name: str, backend: str | None) -> Backend | None:
    """The backend that may know a foundation model of this name: a bare word."""
    if any(character in name for character in "/\\."):
        return None
    starts = {
        start: entry
        for entry in BACKENDS.values()
        if backend in (None, entry.name)
        for start in entry.foundation_names
        if name.lower().startswith(start)
    }
    return starts[max(starts, key=len)] if starts else None


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
    if expected is not None and find_backend(expected).owns(content):
        return find_backend(expected)
    for entry in _all():
        if not entry.owns(content):
            continue
        if expected is not None:
            raise CheckpointError(
                f"{content.path}: is a {entry.kind}, but backend={expected!r} was "
                f"asked for. Use backend={entry.name!r}, or leave it out."
            )
        return entry
    kinds = ", ".join(entry.kind for entry in _all())
    raise CheckpointError(
        f"{content.path}: not a model file known here; it looks like "
        f"{content.describe()}. Known: {kinds}."
    )


def _all() -> Iterator[Backend]:
    """Plug-ins after the others: no file needs their import that is not theirs."""
    yield from BACKENDS.values()
    yield from load_plugins(taken=BACKENDS).values()


def import_backend(name: str) -> ModuleType:
    """Import the module of a backend.

    Raises:
        BackendUnavailableError: its library is not installed, or of a version without
            what is needed of it.
    """
    return _import(find_backend(name))


def _import(entry: Backend) -> ModuleType:
    conflict = (
        f" (cannot share an environment with {entry.conflict!r})"
        if entry.conflict
        else ""
    )
    if entry.library and importlib.util.find_spec(entry.library) is None:
        raise BackendUnavailableError(
            f"Backend {entry.name!r} is not installed: pip install "
            f'"{entry.requirement}"{conflict}.'
        )
    try:
        return importlib.import_module(entry.module)
    except BackendUnavailableError:
        raise
    except Exception as error:
        if not entry.is_plugin and not isinstance(error, (ImportError, AttributeError)):
            raise
        raise BackendUnavailableError(
            f"Backend {entry.name!r}: the {entry.library or entry.package} that is "
            f"installed lacks what is needed of it ({error}). Install a version that "
            f'fits: pip install "{entry.requirement}".'
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
