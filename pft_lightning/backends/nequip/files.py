"""NequIP checkpoints and packages: reading, writing, changing the dtype."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import torch
from torch.nn.utils import parametrize

from pft_lightning.backends.nequip import check as nequip_check
from pft_lightning.backends.reading.content import read_content
from pft_lightning.backends.reading.unpickling import no_more, read_trusted
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.files import replacing, write_atomically


_logger = logging.getLogger(__name__)

PACKAGE_SUFFIX = ".nequip.zip"
# NequIP computes geometry, scales and sums in float64 whatever the dtype of the model.
GEOMETRY_DTYPE = torch.float64
_ALWAYS_FLOAT64 = (
    "EdgeLengthNormalizer",
    "BesselEdgeLengthEncoding",
    "PerTypeScaleShift",
)
_PLAIN_MODULE = "nequip.train.NequIPLightningModule"


@contextlib.contextmanager
def nequip_state() -> Iterator[None]:
    """What NequIP's builders need, undone afterwards.

    ``set_global_state`` reseeds every random generator, exports that seed to data
    loader workers, changes torch's default dtype and how workers share tensors.
    """
    variables = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in variables}
    dtype = torch.get_default_dtype()
    sharing = torch.multiprocessing.get_sharing_strategy()
    # NequIP seeds the legacy generator, so that is the one to restore.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            import e3nn
            from nequip.utils import global_state

            was_initialised = global_state.global_state_initialized()
            if not was_initialised:  # else by nequip-train, maybe with TF32 on
                global_state.set_global_state()
            mode = e3nn.get_optimization_defaults().get("jit_mode")
            if mode is not None:  # TorchScript breaks derivatives under torch.func
                e3nn.set_optimization_defaults(jit_mode="eager")
            try:
                yield
            finally:
                if mode is not None:
                    e3nn.set_optimization_defaults(jit_mode=mode)
                # Otherwise NequIP's own tools would later count on what is undone
                # here, and its calculator would round positions to float32.
                global_state._GLOBAL_STATE_INITIALIZED = was_initialised
    finally:
        torch.set_default_dtype(dtype)
        torch.multiprocessing.set_sharing_strategy(sharing)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


with nequip_state():
    from nequip.model.saved_models import package
    from nequip.model.saved_models.load_utils import load_saved_model
    from nequip.scripts import _package_utils as packaging
    from nequip.train import NequIPLightningModule
    from nequip.train.lightning import _SOLE_MODEL_KEY


# The header of a checkpoint, or the path of a package: what writing one back takes.
Origin = dict[str, Any] | Path


def read(
    path: Path, dtype: torch.dtype | None, *, trust: bool = False
) -> tuple[torch.nn.Module, Origin]:
    """Build the network of a checkpoint (its averaged weights) or of a package.

    Args:
        path: file.
        dtype: in which the network shall compute; default: as stored.
        trust: let NequIP call whatever a checkpoint refers to.

    Raises:
        CheckpointError: damaged, it needs a file or an extension that is missing, or
            it refers to more than a network needs.
        ConfigError: several models in one file.
    """
    if is_package := read_content(path).is_code:
        origin: Origin = path.resolve()
        _warn_of_code(path)
    else:
        content = (
            read_trusted(path, no_more) if trust else nequip_check.read_checkpoint(path)
        )
    with nequip_state(), _with_suffix(path, is_package) as readable:
        try:
            models = load_saved_model(readable, compile_mode="eager", model_key=None)
            if not is_package:
                origin = _header(content)
        # NequIP instantiates whatever the file names, which can fail in any way.
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            raise CheckpointError(
                f"{path}: NequIP cannot open it ({type(error).__name__}: {reason}). "
                "Check that the extensions it was trained with are installed and that "
                "packages or checkpoints it was fine-tuned from are where they were."
            ) from error
    if list(models) != [_SOLE_MODEL_KEY]:
        raise ConfigError(f"{path}: holds several models, {list(models)}.")
    network: torch.nn.Module = models[_SOLE_MODEL_KEY]
    if not any(p.is_floating_point() for p in network.parameters()):
        raise CheckpointError(
            f"{path}: the network has no parameters, so there is nothing to train or "
            "to compare. Use it with NequIP's own calculator."
        )
    if dtype is not None:
        convert(network, dtype)
    return network, origin


def write(
    path: Path,
    origin: Origin,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
) -> None:
    """Write a checkpoint or a package with other weights.

    Args:
        path: file to write; an existing one is replaced.
        origin: from ``read``.
        weights: state of the network.
        dtype: in which the network computes.

    Raises:
        CheckpointError: the original package is gone, or ``nequip-package`` failed.
    """
    if isinstance(origin, Path):
        _write_package(origin, path, weights)
        return
    content = _to_checkpoint(origin, weights, dtype)
    if path.name.endswith(PACKAGE_SUFFIX):
        _build_package(content, path)
    else:
        write_atomically(path, lambda file: torch.save(content, file))


def draw_weights(
    origin: Origin | None, seed: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Parameters as NequIP's own builder draws them, without scales and shifts.

    Args:
        origin: from ``read``.
        seed: of the draw.
        dtype: in which the network computes.

    Raises:
        ConfigError: the file does not say how a new network is built.
    """
    header = origin if isinstance(origin, dict) else {"hyper_parameters": {"model": {}}}
    config = copy.deepcopy(header["hyper_parameters"]["model"])
    if "seed" not in config:
        raise ConfigError(
            "adaptation=scratch: this NequIP file does not describe how a new network "
            "is built (packages and models that were fine-tuned from another file do "
            "not). Give the checkpoint of a training from scratch."
        )
    with nequip_state():
        # As NequIP's training module builds it.
        build = hydra.utils.get_method(config.pop("_target_"))
        changed = {"seed": seed, "compile_mode": "eager"}
        changed["model_dtype"] = str(dtype).removeprefix("torch.")
        network = build(**{**config, **changed})
    return {
        f"{name}.{parameter_name}": parameter.detach()
        for name, module in network.named_modules()
        if type(module).__name__ != "PerTypeScaleShift"
        for parameter_name, parameter in module.named_parameters(recurse=False)
    }


def _own_dtype_modules(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Modules whose tensors are in the dtype of the network."""
    excluded: set[torch.nn.Module] = set()
    for module in network.modules():
        # Reparametrised weights live in submodules of the module that they belong to.
        kind = parametrize.type_before_parametrizations(module)
        if kind.__name__ in _ALWAYS_FLOAT64:
            excluded.update(module.modules())
        if module not in excluded:
            yield module


def parameter_dtype(network: torch.nn.Module) -> torch.dtype:
    """Floating-point type of the weights proper."""
    return next(
        p.dtype
        for module in _own_dtype_modules(network)
        for p in module.parameters(recurse=False)
        if p.is_floating_point()
    )


@torch.no_grad()
def convert(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Change the dtype in which a network computes, in place."""
    own = set(_own_dtype_modules(network))
    for module in network.modules():
        target = dtype if module in own else GEOMETRY_DTYPE
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(target)
        for attribute in ("_output_dtype", "model_dtype"):
            if attribute in vars(module):
                setattr(module, attribute, dtype)


@functools.cache
def _warn_of_code(path: Path) -> None:
    """Say it once for each file: some commands load a potential again and again."""
    _logger.warning(
        "%s is a package: its own Python code builds the network, and runs now.", path
    )


@contextlib.contextmanager
def _with_suffix(path: Path, is_package: bool) -> Iterator[Path]:
    """A name that NequIP accepts: it tells packages from checkpoints by the ending."""
    if path.name.endswith(PACKAGE_SUFFIX) == is_package:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{PACKAGE_SUFFIX if is_package else '.ckpt'}"
        link.symlink_to(path.resolve())
        yield link


def _header(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says besides weights and the state of its training."""
    kept = ("pytorch-lightning_version", "hyper_parameters", "hparams_name")
    header = {key: content[key] for key in kept if key in content}
    # Without the states of its metrics NequIP's training module does not load.
    header["state_dict"] = {
        key: copy.deepcopy(value)
        for key, value in content["state_dict"].items()
        if key.startswith(("loss.", "train_metrics.", "val_metrics.", "test_metrics."))
    }
    return header


def _to_checkpoint(
    header: dict[str, Any], weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, Any]:
    """A checkpoint of NequIP's plain training module."""
    header = copy.deepcopy(header)
    accepted = inspect.signature(NequIPLightningModule.__init__).parameters
    hyper = {k: v for k, v in header["hyper_parameters"].items() if k in accepted}
    training = hyper["info_dict"]["training_module"]
    training["_target_"] = _PLAIN_MODULE
    _drop_phonons(hyper["info_dict"]["data"])
    for config in (hyper["model"], training.get("model", {})):
        if "model_dtype" in config:
            config["model_dtype"] = str(dtype).removeprefix("torch.")
    state = {f"model.{_SOLE_MODEL_KEY}.{name}": w for name, w in weights.items()}
    state["run_stage"] = torch.zeros(1, dtype=torch.long)
    return {
        **header,
        "hyper_parameters": hyper,
        "state_dict": {**header["state_dict"], **state},
        "epoch": 0,
        "global_step": 0,
    }


def _drop_phonons(data: dict[str, Any]) -> None:
    """Let a data section name NequIP's class instead of this package's subclass.

    NequIP's commands read a frame of the training data, where this package may not be
    installed.
    """
    package = __name__.partition(".")[0]
    if data["_target_"].startswith(f"{package}."):
        theirs = next(
            kind
            for kind in hydra.utils.get_class(data["_target_"]).__mro__
            if not kind.__module__.startswith(f"{package}.")
        )
        data["_target_"] = f"{theirs.__module__}.{theirs.__qualname__}"
        data.pop("phonons", None)


def _build_package(content: dict[str, Any], path: Path) -> None:
    """Package a checkpoint with ``nequip-package build``.

    It runs in a process of its own: it changes global settings for good.
    """
    nequip_check.check_data(content["hyper_parameters"]["info_dict"]["data"])
    with replacing(path) as partial:
        checkpoint = partial.with_name("to_package.ckpt")
        package_file = partial.with_name(f"model{PACKAGE_SUFFIX}")
        torch.save(content, checkpoint)
        result = subprocess.run(
            [
                *(sys.executable, "-m", "nequip.scripts.package", "build"),
                *(str(checkpoint), str(package_file)),
            ],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0 or not package_file.is_file():
            reason = (result.stderr.strip() or "no message").splitlines()[-1]
            data = content["hyper_parameters"]["info_dict"]["data"]
            raise CheckpointError(
                f"{path.name}: nequip-package could not build it ({reason}). It reads "
                "a frame of the training data that the NequIP checkpoint names "
                f"({data.get('train_file_path', data.get('_target_'))}), which must be "
                "there. A .ckpt is written without them, and can be packaged where "
                "they are."
            )
        package_file.replace(partial)


def _write_package(
    original: Path, path: Path, weights: dict[str, torch.Tensor]
) -> None:
    """Copy a package with other weights, the way ``nequip-package modify`` does."""
    if not original.is_file():
        raise CheckpointError(
            f"{path}: cannot be written, because the package that the model came from, "
            f"{original}, is gone. Put it back."
        )
    with nequip_state(), package._suppress_package_importer_exporter_warnings():
        old = torch.package.PackageImporter(str(original))
        modes = package._get_package_metadata(old)["available_models"]

        def write(file: Any) -> None:
            importers = (old, torch.package.importer.sys_importer)
            with torch.package.PackageExporter(file, importer=importers) as new:
                new.mock([f"{name}.**" for name in packaging._MOCK_MODULES])
                new.extern([f"{name}.**" for name in packaging._EXTERNAL_MODULES])
                new.intern([f"{name}.**" for name in packaging._INTERNAL_MODULES])
                for resource in ("config.yaml", "package_metadata.txt"):
                    new.save_text("model", resource, old.load_text("model", resource))
                names = ["example_data.pkl", *(f"{mode}_model.pkl" for mode in modes)]
                for name in names:
                    with package._cpu_deserialize_always():
                        item = old.load_pickle("model", name, map_location="cpu")
                    if name != "example_data.pkl":
                        item[_SOLE_MODEL_KEY].load_state_dict(weights)
                    new.save_pickle("model", name, item, dependencies=True)

        write_atomically(path, write)
