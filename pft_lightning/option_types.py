"""Kinds of values that options have: what is accepted, in which unit.

A class or function whose arguments are options annotates them with these, gives their
defaults in its signature and says in its docstring what each is. ``options.blocks``
makes of that what composes, checks and explains configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pft_lightning.units import unit_system


class Options(BaseModel):
    """A block of options; others than those listed are refused.

    The string below an option says what it is (``options.blocks.describe_options``).
    """

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True, slots=True)
class Words:
    """What a value is, where its type does not say it well; continues "expected".

    Attributes:
        text: the words.
        is_complete: whether nothing is said of null, though it is accepted.
    """

    text: str
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """Unit of a number, or what it counts."""

    text: str


@dataclass(frozen=True, slots=True)
class As:
    """What a configuration has in place of an argument's type: lists, not tuples."""

    kind: Any


class Given:
    """An argument that the commands give; no option."""


class Added:
    """An option that is absent unless it is added, with + in front."""


def _matrix(numbers: list[int] | None) -> list[int] | None:
    if numbers is not None and (len(numbers) not in (3, 9) or not any(numbers)):
        raise ValueError(numbers)
    return numbers


def _shares(shares: float | list[float]) -> float | list[float]:
    if isinstance(shares, list) and (not shares or len(set(shares)) < len(shares)):
        raise ValueError(shares)
    return shares


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


Text = Annotated[str, Field(min_length=1)]
Path = Annotated[str, Field(min_length=1), Words("a path")]
Paths = Annotated[str | list[str], Field(min_length=1), Words("a path, or a list")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Angstrom = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("Å")]
EVPerAngstrom = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("eV/Å")]
EVPerSquareAngstrom = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("eV/Å²")]
EVPerCubicAngstrom = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("eV/Å³")]
EVPerAtom = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("eV/atom")]
Kelvin = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("K")]
Terahertz = Annotated[float, Field(ge=0, allow_inf_nan=False), Unit("THz")]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
NStructures = Annotated[int, Field(ge=1), Unit("structures")]
NAtoms = Annotated[int, Field(ge=1), Unit("atoms")]
NEdges = Annotated[int, Field(ge=1), Unit("edges")]
Nodes = Annotated[
    int,
    Field(ge=1, le=100_000),
    Words("a whole number of at least 1, at most 100000"),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Processes = Annotated[int, Field(ge=0, le=1024), Unit("processes")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Shares = Annotated[
    Share | list[Share],
    AfterValidator(_shares),
    Words(
        "a number from 0 (base model) to 1 (fine-tuned), or a list of different ones"
    ),
]
Cutoff = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), Unit("Å")]
Checkpoint = Annotated[
    str, Field(min_length=1), Words("a file, or the name of a foundation model")
]
Dtype = Literal["float32", "float64"]
Matrix = Annotated[
    list[Annotated[int, Field(ge=-1000, le=1000)]] | None,
    AfterValidator(_matrix),
    Words("3 or 9 whole numbers in a list, e.g. [2,2,2], or null"),
]
ForceUnits = Annotated[
    str | None,
    AfterValidator(_units),
    Words("a code that phonopy knows (vasp, qe, ...), a unit of force, or null"),
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
Symprec = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
