"""Phonon fine-tuning of interatomic potentials with PyTorch Lightning.

Public names are imported on first use: importing the package loads no backend, no
trainer and no logger.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pft_lightning.adaptation.mixing import mix
    from pft_lightning.backends.base import EnergyModel
    from pft_lightning.backends.calculator import Calculator, hessian_vector_product
    from pft_lightning.backends.registry import load_model
    from pft_lightning.callbacks.conductivity_validation import (
        ConductivityValidation,
    )
    from pft_lightning.callbacks.hessian_loss import HessianLoss
    from pft_lightning.callbacks.phonon_validation import PhononValidation
    from pft_lightning.data.datamodule import (
        ElasticSource,
        MeasuredSource,
        PhononDataModule,
        PhononSource,
        UpstreamSource,
    )
    from pft_lightning.data.readers.phono3py import read_phono3py
    from pft_lightning.data.readers.phonopy import read_phonopy
    from pft_lightning.errors import PFTError
    from pft_lightning.evaluation.elastic import elastic_constants
    from pft_lightning.evaluation.force_constants import force_constants
    from pft_lightning.evaluation.gruneisen import gruneisen_parameters
    from pft_lightning.evaluation.runner import evaluate_phonons
    from pft_lightning.evaluation.third_order import third_order_force_constants
    from pft_lightning.training.module import PhononFineTuning

_HOMES = {
    "Calculator": "backends.calculator",
    "ConductivityValidation": "callbacks.conductivity_validation",
    "ElasticSource": "data.datamodule",
    "EnergyModel": "backends.base",
    "HessianLoss": "callbacks.hessian_loss",
    "MeasuredSource": "data.datamodule",
    "PFTError": "errors",
    "PhononDataModule": "data.datamodule",
    "PhononFineTuning": "training.module",
    "PhononSource": "data.datamodule",
    "PhononValidation": "callbacks.phonon_validation",
    "UpstreamSource": "data.datamodule",
    "elastic_constants": "evaluation.elastic",
    "evaluate_phonons": "evaluation.runner",
    "force_constants": "evaluation.force_constants",
    "gruneisen_parameters": "evaluation.gruneisen",
    "hessian_vector_product": "backends.calculator",
    "load_model": "backends.registry",
    "mix": "adaptation.mixing",
    "read_phono3py": "data.readers.phono3py",
    "read_phonopy": "data.readers.phonopy",
    "third_order_force_constants": "evaluation.third_order",
}

__all__ = [
    "Calculator",
    "ConductivityValidation",
    "ElasticSource",
    "EnergyModel",
    "HessianLoss",
    "MeasuredSource",
    "PFTError",
    "PhononDataModule",
    "PhononFineTuning",
    "PhononSource",
    "PhononValidation",
    "UpstreamSource",
    "elastic_constants",
    "evaluate_phonons",
    "force_constants",
    "gruneisen_parameters",
    "hessian_vector_product",
    "load_model",
    "mix",
    "read_phono3py",
    "read_phonopy",
    "third_order_force_constants",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Give the public names, imported or not, for ``dir()`` and ``help()``."""
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*__all__, *special, "__version__"})
