"""What an evaluation does with every material, checked before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, get_args

from ase.calculators.calculator import BaseCalculator

from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.fingerprints import (
    digest,
    fingerprint,
    library_versions,
)
from pft_lightning.evaluation.folder import REFERENCE
from pft_lightning.evaluation.force_constants import Method, Potential, in_float64
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.reference import Material
from pft_lightning.types import Engine


# Changes when the same input would give other numbers: files of an older version are
# computed again.
_RESULTS_VERSION = 2

# Of phonons or of conductivities.
_Protocol = TypeVar("_Protocol")


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[_Protocol]):
    """What is done with every material.

    Attributes:
        models: by label, in float64.
        fingerprints: of the models.
        identities: what tells each model from others, and the libraries that compute
            from versions that may give other numbers.
        keys: per model, what its results depend on beside the material.
        protocol: that is followed.
        max_atoms: of one pass.
        engine: of Hessian-vector products; None chooses by device.
    """

    models: dict[str, Potential]
    fingerprints: dict[str, str]
    identities: dict[str, str]
    keys: dict[str, str]
    protocol: _Protocol
    max_atoms: int
    engine: Engine | None

    def keys_of(self, material: Material[Any]) -> dict[str, str]:
        """What the results of each model on a material depend on."""
        return {
            label: digest([key, material.fingerprint])
            for label, key in self.keys.items()
        }


def make_task(
    models: Potential | Mapping[str, Potential],
    protocol: _Protocol,
    max_atoms: int,
    engine: Engine | None,
    libraries: Sequence[str] = (),
) -> Task[_Protocol]:
    """Check models and options, and note what results depend on.

    Args:
        models: one, or several by label.
        protocol: a dataclass that is followed.
        max_atoms: of one pass.
        engine: of Hessian-vector products; None chooses by device.
        libraries: that compute numbers, beside those of every evaluation.

    Raises:
        ConfigError: a label or an option that cannot be used.
    """
    models = _named(models)
    _check_options(models, protocol, max_atoms, engine)
    fingerprints = {label: fingerprint(model) for label, model in models.items()}
    values = asdict(protocol)  # type: ignore[call-overload]
    versions = library_versions(libraries)
    settings = [_RESULTS_VERSION, versions, values, engine]
    return Task(
        models={
            label: in_float64(model) if isinstance(model, EnergyModel) else model
            for label, model in models.items()
        },
        fingerprints=fingerprints,
        identities={
            label: digest([_RESULTS_VERSION, versions, one])
            for label, one in fingerprints.items()
        },
        keys={label: digest([*settings, one]) for label, one in fingerprints.items()},
        protocol=protocol,
        max_atoms=max_atoms,
        engine=engine,
    )


def _named(models: Potential | Mapping[str, Potential]) -> dict[str, Potential]:
    # A model is a torch module, never a mapping.
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ConfigError("no model was given; expected at least one.")
    for label, model in named.items():
        if (
            not isinstance(label, str)
            or label == REFERENCE
            or "/" in label
            or not label
        ):
            raise ConfigError(
                f"the label {label!r} of a model cannot be used; choose one that is "
                f"not {REFERENCE!r} and has no '/'."
            )
        if not isinstance(model, (EnergyModel, BaseCalculator)):
            raise ConfigError(
                f"model {label!r} is a {type(model).__name__}; expected one from "
                "pft.load_model or an ASE calculator."
            )
    return named


def _check_options(
    models: Mapping[str, Potential],
    protocol: object,
    max_atoms: int,
    engine: str | None,
) -> None:
    """Refuse what would fail on every material."""
    if max_atoms < 1:
        raise ConfigError(f"max_atoms={max_atoms}; at least 1.")
    if engine not in (None, *get_args(Engine)):
        raise ConfigError(
            f"engine={engine!r}; expected {', '.join(get_args(Engine))}, or null."
        )
    if not isinstance(protocol, Protocol):
        return
    if protocol.method not in get_args(Method):
        raise ConfigError(
            f"protocol.method={protocol.method!r}; expected one of "
            f"{', '.join(get_args(Method))}."
        )
    for label, model in models.items():
        is_calculator = not isinstance(model, EnergyModel)
        if is_calculator and protocol.method != "finite_displacement":
            raise ConfigError(
                f"protocol.method={protocol.method!r} needs second derivatives, which "
                f"the ASE calculator {label!r} ({type(model).__name__}) does not give. "
                "Use protocol.method=finite_displacement, or protocol=mdr."
            )
