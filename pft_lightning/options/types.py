"""Kinds of values that options have, for ``schema`` and ``schema_targets``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pft_lightning.backends.registry import BACKENDS
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.units import unit_system


class Options(BaseModel):
    """A block of options; others than those listed are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class Words:
    """What a value is, where its type does not say it well.

    Args:
        text: Continues "expected".
    """

    def __init__(self, text: str) -> None:
        self.text = text


UNKNOWN = "unknown_options"  # kind of error whose context lists options and those known


def _backend(name: str | None) -> str | None:
    # "auto" is the group of options that leaves it to the file.
    if name not in (None, "auto", *BACKENDS):
        raise ValueError(name)
    return name


def _matrix(numbers: list[int] | None) -> list[int] | None:
    if numbers is not None and (len(numbers) not in (3, 9) or not any(numbers)):
        raise ValueError(numbers)
    return numbers


def _devices(devices: int | str | list[int]) -> int | str | list[int]:
    if isinstance(devices, int):
        good = devices == -1 or devices > 0
    elif isinstance(devices, list):
        good = bool(devices) and min(devices) >= 0
    else:
        good = devices == "auto" or devices.replace(",", "").strip("-").isdigit()
    if not good:
        raise ValueError(devices)
    return devices


def _device(name: str) -> str:
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ValueError(name) from error
    return name


def _units(name: str | None) -> str | None:
    if name is not None:
        unit_system(name)
    return name


# A description is a unit, or a few words, and becomes a part of messages.
Path = Annotated[str, Field(min_length=1), Words("a path")]
Paths = Annotated[str | list[str], Field(min_length=1), Words("a path, or a list")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Angstrom = Annotated[float, Field(gt=0, allow_inf_nan=False, description="Å")]
EVPerAngstrom = Annotated[float, Field(gt=0, allow_inf_nan=False, description="eV/Å")]
EVPerCubicAngstrom = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="eV/Å³")
]
EVPerAtom = Annotated[float, Field(gt=0, allow_inf_nan=False, description="eV/atom")]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Nodes = Annotated[
    int,
    Field(ge=1, le=100_000),
    Words("a whole number of at least 1, at most 100000"),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Processes = Annotated[int, Field(ge=0, le=1024, description="processes")]
Cutoff = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, description="Å")]
Backend = Annotated[
    str | None,
    AfterValidator(_backend),
    Words(f"one of {', '.join(BACKENDS)}, or null"),
]
Checkpoint = Annotated[
    str, Field(min_length=1), Words("a file, or the name of a MACE model")
]
Dtype = Literal["float32", "float64"]
Matrix = Annotated[
    list[Annotated[int, Field(ge=-1000, le=1000)]] | None,
    AfterValidator(_matrix),
    Words("3 or 9 whole numbers in a list, e.g. [2,2,2], or null"),
]
Device = Annotated[
    str, AfterValidator(_device), Words("cpu, cuda, or another device of torch")
]
Devices = Annotated[
    Annotated[int, Field(le=1024)] | str | list[int],
    AfterValidator(_devices),
    Words("a number of at least 1, at most 1024, a list of numbers, or auto"),
]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu", "xpu"]
Patterns = Annotated[list[str] | str, Words("shell patterns of names in a list")]
NAtoms = Annotated[int, Field(ge=1, description="atoms")]


class ReadOptions(Options):
    """How phonon files are read; ``PhononReadOptions`` has more words."""

    model_config = ConfigDict(extra="allow")

    max_asymmetry: Annotated[Positive, Field(description="eV/Å²")]
    max_relative_asymmetry: Positive
    relaxed: Literal["full", "positions", "none"] = "full"
    units: Annotated[
        str | None,
        AfterValidator(_units),
        Words("a code that phonopy knows (vasp, qe, ...), a unit of force, or null"),
    ]
    max_force: EVPerAngstrom = 1000.0
    max_displacement: Angstrom = 0.5
    supercell_matrix: Matrix
    fc_calculator: Literal["auto", "traditional", "symfc"]
    symprec: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None

    @model_validator(mode="after")
    def _know_all(self) -> Any:
        known = [field.name for field in dataclasses.fields(PhononReadOptions)]
        if unknown := set(self.model_extra or ()) - {*known, "_target_"}:
            raise PydanticCustomError(
                UNKNOWN, "unknown", {"unknown": sorted(unknown), "known": known}
            )
        return self
