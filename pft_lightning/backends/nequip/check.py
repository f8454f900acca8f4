"""What a NequIP checkpoint asks NequIP to build, checked before NequIP opens it.

NequIP calls whatever the hyperparameters of a checkpoint name. Here they may name its
own builders, modules, losses and metrics only, in sizes that the weights bear out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from e3nn.o3 import Irreps

from pft_lightning.backends.base import LARGEST_CUTOFF
from pft_lightning.backends.reading.unpickling import REMEDY, read_saved, refusal
from pft_lightning.errors import CheckpointError


_TARGET = "_target_"
# What NequIP builds when it loads a checkpoint: sections of the hyperparameters.
_BUILT = ("model", "loss", "train_metrics", "val_metrics", "test_metrics")
# Further ones where the optimiser knows the weights to evaluate.
_SCHEDULE_FREE = ("optimizer", "lr_scheduler")
# Where names may start, and where what they stand for may be defined.
_PACKAGES = (
    *("nequip.model.", "nequip.nn.", "nequip.train.", "nequip.data."),
    *("allegro.model.", "allegro.nn.", "pft_lightning.integrations.nequip."),
    *("torchmetrics.regression.", "torch.nn.modules.", "torch.optim."),
    "schedulefree.",
)
_SHORT_NAMES = ("torchmetrics.", "torch.nn.", *_PACKAGES)
# Where ordinary functions make parts of networks and losses.
_MAKERS = ("nequip.nn.", "allegro.nn.", "nequip.train.metrics")
_CLASSES = (
    torch.nn.Module,  # metrics too
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
)
_OTHER_FILES = "ModelFromCheckpoint"
_PACKAGED = ("ModelFromPackage", "ModelTypeNamesFromPackage")
# Entries by which Lightning finds arguments elsewhere, or has another one build.
_HOOKS = ("_instantiator", "hparams", "module_arguments")
_LOADERS = ("torch.utils.data.DataLoader",)
_MOST_DATASETS = 1000
_HIGHEST_DEGREE = 8
_MOST_LAYERS = 64


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, and of those it was fine-tuned from, found harmless.

    Args:
        path: file.

    Raises:
        CheckpointError: damaged, or it refers to what NequIP does not need.
    """
    return _read(path, seen=())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise CheckpointError(f"{path}: was fine-tuned from itself; it is damaged.")
    content = read_saved(path)
    parameters = _section(path, content, "hyper_parameters")
    info = _section(path, parameters, "info_dict")
    module = _section(path, info, "training_module").get(_TARGET)
    weights = _section(path, content, "state_dict")
    if not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{path}: its state_dict is damaged.")
    for name in _HOOKS:
        if name in content or name in parameters:
            raise _refused(path, f"{name}, with which Lightning calls other code")
    counts = _section(path, parameters, "num_datasets").values()
    if not all(isinstance(n, int) and 0 <= n <= _MOST_DATASETS for n in counts):
        raise CheckpointError(
            f"{path}: num_datasets={list(counts)}; expected up to {_MOST_DATASETS}."
        )
    targets = [module]
    sections: tuple[str, ...] = _BUILT
    if "schedulefree" in str(module).lower():
        sections = (*sections, *_SCHEDULE_FREE)
    for name in sections:
        for key, value in _walk(parameters.get(name)):
            if isinstance(value, str) and "${" in value:
                raise _refused(path, f"the interpolation {value[:100]!r}")
            if key == _TARGET:
                targets.append(value)
    for target in targets:
        check_target(path, target)
    for _, part in _walk(parameters.get("model"), mappings=True):
        if str(part.get(_TARGET)).endswith(_OTHER_FILES):
            _read(Path(str(part.get("checkpoint_path"))), (*seen, path.resolve()))
    _check_sizes(path, _section(path, parameters, "model"), weights)
    return dict(content)


def check_target(path: Path, target: Any) -> None:
    """Refuse a name that does not stand for a part of NequIP.

    Args:
        path: of the checkpoint, named in messages.
        target: to be called.

    Raises:
        CheckpointError: it stands for something else, or for nothing.
    """
    if not isinstance(target, str) or not target.startswith(_SHORT_NAMES):
        raise refusal(path, [str(target)[:200]])
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:
        raise CheckpointError(
            f"{path}: refers to {target}, which is not installed here ({error}). It "
            "was written by another version of it: install that one."
        ) from error
    home = f"{getattr(found, '__module__', '')}."
    if getattr(found, "__name__", "") in _PACKAGED:
        raise _refused(
            path,
            f"{target}: it was fine-tuned from a package, whose code runs when the "
            "network is built",
        )
    is_builder = inspect.isfunction(found) and (
        hasattr(found, "__wrapped__")
        or found.__name__ in ("modify", _OTHER_FILES)
        or home.startswith(_MAKERS)
    )
    is_class = inspect.isclass(found) and (
        issubclass(found, _CLASSES) or home.startswith("nequip.data.modifier")
    )
    if not home.startswith(_PACKAGES) or not (is_builder or is_class):
        raise refusal(path, [target])


def check_data(data: Mapping[str, Any]) -> None:
    """Refuse training data that are not read by NequIP's own classes.

    ``nequip-package`` reads a frame of them, and so calls whatever they name.

    Args:
        data: section of a checkpoint.

    Raises:
        CheckpointError: names the class.
    """
    for key, value in _walk(data):
        if "${" in str(value) or (key == _TARGET and not _reads_data(value)):
            raise CheckpointError(
                f"the checkpoint names training data of {str(value)[:200]}, which "
                "nequip-package would call. Write a .ckpt, and package that where you "
                "trust what it names."
            )


def _reads_data(target: Any) -> bool:
    if target in _LOADERS:
        return True
    if not str(target).startswith("nequip.data."):
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # there is no such thing
        return False
    return str(getattr(found, "__module__", "")).startswith("nequip.data.")


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: names {what}. {REMEDY}")


def _section(path: Path, content: Any, name: str) -> Mapping[str, Any]:
    found = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path}: its {name} is {type(found).__name__}, not a dictionary as in a "
            "NequIP checkpoint. Copy or download it again."
        )
    return found


def _walk(value: Any, *, mappings: bool = False) -> Iterator[tuple[Any, Any]]:
    """All (key, value) of nested dictionaries and lists; or the dictionaries."""
    waiting = [("", value)]
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, Mapping):
            if mappings:
                yield key, item
            waiting.extend(item.items())
        elif isinstance(item, (list, tuple)):
            waiting.extend((key, entry) for entry in item)
        elif not mappings:
            yield key, item


def _check_sizes(
    path: Path, model: Mapping[str, Any], weights: Mapping[str, Any]
) -> None:
    """Refuse numbers that the weights do not bear out, before anything is built."""
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if tensor.is_sparse or tensor.untyped_storage().nbytes() < size:
            raise CheckpointError(
                f"{path}: a weight claims {size} bytes that are not there."
            )
    largest = max((tensor.numel() for tensor in tensors), default=0)
    for key, value in _walk(model):
        accepted = _limit(str(key), value, max(largest, 512))
        if accepted:
            raise CheckpointError(
                f"{path}: {key}={str(value)[:100]}; expected {accepted}."
            )


def _limit(key: str, value: Any, largest: int) -> str | None:
    """What is accepted where a value is not."""
    if key == "seed" or isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if key == "r_max":
        within = isinstance(value, (int, float)) and 0 < value <= LARGEST_CUTOFF
        return None if within else f"a cutoff up to {LARGEST_CUTOFF:g} Å"
    if "irreps" in key and isinstance(value, str):
        return _irreps_limit(value, largest)
    if not isinstance(value, int):
        return None
    if "l_max" in key or key == "irreps_edge_sh":
        return None if 0 <= value <= _HIGHEST_DEGREE else f"0 to {_HIGHEST_DEGREE}"
    if ("layers" in key and "width" not in key) or "depth" in key:
        return None if 0 <= value <= _MOST_LAYERS else f"0 to {_MOST_LAYERS}"
    if abs(value) > largest:
        return f"at most the size of the largest weight, {largest}"
    return None


def _irreps_limit(text: str, largest: int) -> str | None:
    try:
        irreps = Irreps(text)
    except (ValueError, AssertionError, IndexError):
        return "irreps such as 32x0e+32x1o"
    if any(n > largest or ir.l > _HIGHEST_DEGREE for n, ir in irreps):
        return f"degrees up to {_HIGHEST_DEGREE}, channels up to {largest}"
    return None
