"""Exceptions of pft_lightning.

A message says what was wrong, the value got, the values accepted and the next step.
"""

from __future__ import annotations


class PFTError(Exception):
    """Base of every error that pft_lightning raises on purpose."""


class ConfigError(PFTError, ValueError):
    """An option, or a combination of options, makes no sense."""


class UnknownElementError(ConfigError):
    """A structure holds an element that a model has no parameters for."""


class ShapeError(PFTError, ValueError):
    """An array has another shape than the function promises to take."""


class DataFormatError(PFTError, ValueError):
    """A data file is missing, truncated, of no known kind or holds unusable values."""


class CheckpointError(PFTError, ValueError):
    """A model or run checkpoint cannot be read, or belongs to something else."""


class StorageError(PFTError, OSError):
    """A file or folder cannot be written: full, read-only, or in use by another."""


class BackendUnavailableError(PFTError, ImportError):
    """The library behind a backend is not installed."""


class KernelError(PFTError, RuntimeError):
    """Compiled code and the Python code that calls it do not fit each other."""


class DeviceMemoryError(PFTError, RuntimeError):
    """One structure alone needs more memory than the device has."""


class NotDifferentiableError(PFTError, RuntimeError):
    """Derivatives were asked for where none can be computed."""


class RelaxationError(PFTError, RuntimeError):
    """A potential could not relax a structure: it exploded or did not converge."""


class QuasiHarmonicError(PFTError, RuntimeError):
    """Free energies over volumes have no minimum that can be found among them."""


class DivergenceError(PFTError, ArithmeticError):
    """What is computed is NaN or infinite: a loss, a gradient, a force, a result."""
