"""The device that a case asks for, as torch and JAX see it.

``prepare`` must run before either is imported: JAX reads its platform only then.
"""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil


PACKAGES = (
    "pft_lightning", "torch", "triton", "mace-torch", "nequip", "e3nn", "nequix", "jax",
    "openequivariance",
)  # fmt: skip


def on_gpu(device: str) -> bool:
    """Whether a device is one of CUDA's."""
    return device.startswith("cuda")


def prepare(device: str) -> None:
    """Let JAX take this device alone, and of its memory only what it needs."""
    os.environ["JAX_PLATFORMS"] = "cuda" if on_gpu(device) else "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def jax_device(device: str) -> Any:
    """JAX's device of that name.

    Raises:
        RuntimeError: JAX has none, so that nothing is measured elsewhere.
    """
    import jax

    kind, _, index = device.partition(":")
    try:
        found = jax.local_devices()
    except (AssertionError, RuntimeError) as error:  # built without, or no driver
        raise RuntimeError(f"JAX has no device {device}: {error!r}") from error
    wanted = {"cuda": ("gpu", "cuda"), "cpu": ("cpu",)}[kind]
    if found[0].platform not in wanted or int(index or 0) >= len(found):
        raise RuntimeError(f"JAX has no device {device}; it has {found}")
    return found[int(index or 0)]


class TorchDevice:
    """Waits for torch, and reads its memory.

    Args:
        name: "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        if on_gpu(name):
            import torch

            torch.zeros(1, device=name)  # fails here, with torch's own words

    def start(self) -> None:
        """Count memory from here on."""
        if on_gpu(self._name):
            import torch

            torch.cuda.reset_peak_memory_stats(self._name)
        self._before = _resident()

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""
        if on_gpu(self._name):
            import torch

            torch.cuda.synchronize(self._name)

    def peak_memory(self) -> float | None:
        """MiB; on the CPU what the process grew by."""
        if on_gpu(self._name):
            import torch

            return float(torch.cuda.max_memory_allocated(self._name) / 2**20)
        return _resident() - self._before


class JaxDevice:
    """The same for JAX, whose steps wait themselves and which keeps only one peak."""

    def __init__(self, name: str) -> None:
        self._device = jax_device(name)
        self._on_gpu = on_gpu(name)

    def start(self) -> None:
        """Count memory from here on."""
        self._before = self._peak() if self._on_gpu else _resident()

    def synchronise(self) -> None:
        """Nothing to do: a step ends with ``block_until_ready``."""

    def peak_memory(self) -> float | None:
        """MiB; None where an earlier case of the process needed more."""
        if not self._on_gpu:
            return _resident() - self._before
        peak = self._peak()
        return peak if peak > self._before else None

    def _peak(self) -> float:
        statistics = self._device.memory_stats() or {}
        return float(statistics.get("peak_bytes_in_use", 0)) / 2**20


def _resident() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str, *, with_jax: bool = False) -> dict[str, Any]:
    """Of this machine, without its name; of a GPU as the framework calls it."""
    found: dict[str, Any] = {
        "cores": psutil.cpu_count(),
        "processor": platform.machine(),
    }
    if on_gpu(device) and with_jax:
        found["gpu"] = jax_device(device).device_kind
    elif on_gpu(device):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found
