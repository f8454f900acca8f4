"""Conductivities of DFT, mode by mode, as k_SRME and its leaderboard write them.

A file is a table in JSON, as pandas writes it: a column is an object with the value of
each row by the name of the row. Two sets of column names are in use.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.formula import Formula

from pft_lightning.data.sources import skip_lines
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.score import Conductivity
from pft_lightning.files import read_data
from pft_lightning.json_files import parse_json


# What is read -> its names, those of the phononDB reference first.
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("mp_id", "material_id"),
    "formula": ("name", "formula"),
    "space_group": ("symm.no", "init_spg_num", "spg_num"),
    "mesh": ("q_mesh", "q_point_mesh"),
    "temperatures": ("temperatures", "temperature"),
    "kappa": ("kappa_TOT_ave", "kappa_tot_avg"),
    "modes": ("mode_kappa_TOT_ave", "mode_kappa_tot_avg"),
    "weights": ("weights", "mode_weights"),
    "q_points": ("qpoints", "q_points"),
    "frequencies": ("frequencies", "ph_freqs"),
}

# Columns without which nothing can be scored.
_NEEDED: Final = ("id", "kappa", "modes", "weights", "q_points", "frequencies")

# Where a table names no temperature.
_USUAL_TEMPERATURE: Final = 300.0

# Largest difference of temperatures that are the same, K.
_SAME_TEMPERATURE: Final = 1e-6

# Largest difference between a conductivity and the sum over its modes, relative.
_TOLERANCE: Final = 1e-3

# What the magnitudes of modes add up to at most, relative to the conductivity. A mode
# conducts no less than nothing but for its share of coherences, which are small; with
# 1.1, SRME stays below 2.1.
_MOST_MAGNITUDE: Final = 1.1

# Most q-points along an axis.
MOST_POINTS: Final = 500

_MOST_GROUPS: Final = 230  # of space groups


class OtherCrystalError(DataFormatError):
    """A crystal has the identifier of another one of the reference."""


class _OtherTemperatureError(DataFormatError):
    """A row has no conductivity at the temperature that is asked for."""

    def __init__(self, known: list[float]) -> None:
        at = ", ".join(f"{t:g}" for t in known)
        super().__init__(f"it has conductivities at {at} K alone")
        self.known = known


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceCrystal:
    """A crystal whose conductivity is known from DFT.

    Attributes:
        name: its identifier, e.g. mp-1265.
        formula: as the table has it; empty where it does not say.
        space_group: number; 0 where it does not say.
        mesh: numbers of q-points along the axes; None where it does not say.
        conductivity: of DFT.
    """

    name: str
    formula: str
    space_group: int
    mesh: tuple[int, int, int] | None
    conductivity: Conductivity


class References(dict[str, ReferenceCrystal]):
    """Crystals of a reference by their identifier."""

    @cached_property
    def state(self) -> str:
        """What tells that a reference has changed."""
        found = hashlib.sha256()
        for name, one in self.items():
            known = one.conductivity
            shown = (name, one.formula, one.space_group, one.mesh, known.temperature)
            found.update(repr((*shown, known.kappa)).encode())
            for array in (known.modes, known.weights, known.q_points):
                found.update(repr(array.shape).encode() + array.tobytes())
            found.update(known.frequencies.tobytes())
        return found.hexdigest()


def read_conductivities(
    path: str | Path, temperature: float = _USUAL_TEMPERATURE
) -> References:
    """Read the conductivities of DFT from a table.

    Rows that cannot be used are left out; a warning names them.

    Args:
        path: ``kappas_phononDB_PBE_noNAC.json.gz`` and alike, packed or not.
        temperature: K, one of those of the table.

    Returns:
        Crystals by their identifier.

    Raises:
        DataFormatError: no such table, or none of its rows can be used.
        ConfigError: it has another temperature.
    """
    path = Path(path).expanduser()
    columns = _read_columns(path)
    found = References()
    skipped: list[tuple[str, str]] = []
    others: set[float] = set()
    for row in columns["id"]:
        try:
            crystal = _read_row(columns, row, temperature)
            if crystal.name in found:
                raise DataFormatError(f"{crystal.name} is there twice")
        except _OtherTemperatureError as error:
            others.update(error.known)
            skipped.append((row, f"{path}, row {row}: {error}."))
        except DataFormatError as error:
            skipped.append((row, f"{path}, row {row}: {error}."))
        else:
            found[crystal.name] = crystal
    if not found and others:
        raise ConfigError(
            f"protocol.temperature={temperature:g}: {path} has conductivities at "
            f"{', '.join(f'{t:g}' for t in sorted(others))} K. Choose one of these."
        )
    if not found:
        reasons = "\n".join(skip_lines(skipped, most=3)[1:])
        raise DataFormatError(
            f"{path}: none of its {len(skipped)} conductivities can be used:\n{reasons}"
        )
    if skipped:
        warnings.warn("\n".join(skip_lines(skipped)), stacklevel=2)
    return found


def _read_columns(path: Path) -> dict[str, Mapping[str, Any]]:
    """Read the columns that are needed, by what they hold."""
    try:
        table = parse_json(read_data(path))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataFormatError):
            raise
        raise DataFormatError(
            f"{path}: cannot be read as JSON ({type(error).__name__}: {error}). Give a "
            "table of conductivities, kappas_phononDB_PBE_noNAC.json.gz or alike."
        ) from error
    columns = {
        what: table[name]
        for what, names in _COLUMNS.items()
        for name in reversed(names)
        if isinstance(table, dict) and isinstance(table.get(name), dict)
    }
    missing = [what for what in _NEEDED if what not in columns]
    if missing:
        names = ", ".join(" or ".join(_COLUMNS[what]) for what in missing)
        raise DataFormatError(
            f"{path}: lacks the columns {names}. Give a table of conductivities mode "
            "by mode, kappas_phononDB_PBE_noNAC.json.gz or alike."
        )
    return columns


def _read_row(
    columns: Mapping[str, Mapping[str, Any]], row: str, temperature: float
) -> ReferenceCrystal:
    values = {what: column.get(row) for what, column in columns.items()}
    name = values["id"]
    if not isinstance(name, (str, int)) or not str(name).strip():
        raise DataFormatError(f"{name!r} is no identifier of a material")
    known = _numbers(values.get("temperatures") or _USUAL_TEMPERATURE).ravel()
    apart = np.abs(known - temperature)
    if apart.min() > _SAME_TEMPERATURE:
        raise _OtherTemperatureError(known.tolist())
    at = int(np.argmin(apart))
    kappa, modes = np.atleast_1d(_numbers(values["kappa"])), _numbers(values["modes"])
    if modes.ndim != 3 or not len(modes) == len(kappa) == len(known):
        raise DataFormatError(
            f"modes have the shape {modes.shape}; expected ({len(known)} temperatures, "
            "q-points, bands)"
        )
    found = Conductivity(
        temperature=temperature,
        kappa=float(kappa[at]),
        modes=modes[at],
        weights=_numbers(values["weights"]),
        q_points=_numbers(values["q_points"]),
        frequencies=_numbers(values["frequencies"]),
    )
    _check(found)
    return ReferenceCrystal(
        name=str(name).strip(),
        formula=str(values.get("formula") or ""),
        space_group=_space_group(values.get("space_group")),
        mesh=_mesh(values.get("mesh"), float(found.weights.sum())),
        conductivity=found,
    )


def _space_group(value: Any) -> int:
    """Number of a space group; 0 where there is none."""
    number = 0.0 if value is None else float(_numbers(value).ravel()[0])
    if number != int(number) or not 0 <= number <= _MOST_GROUPS:
        raise DataFormatError(f"{value!r} is no number of a space group")
    return int(number)


def _mesh(value: Any, n_points: float) -> tuple[int, int, int] | None:
    """Mesh of q-points, which its points have to make up; None where there is none."""
    if value is None:
        return None
    numbers = _numbers(value).ravel()
    whole = tuple(int(n) for n in numbers)
    if len(whole) != 3 or not np.array_equal(numbers, whole):
        raise DataFormatError(f"{value!r} is no mesh of q-points")
    if not 1 <= min(whole) <= max(whole) <= MOST_POINTS:
        raise DataFormatError(
            f"the mesh of q-points is {list(whole)}; expected numbers from 1 to "
            f"{MOST_POINTS}"
        )
    if math.prod(whole) != n_points:
        raise DataFormatError(
            f"the mesh {list(whole)} has {math.prod(whole)} q-points, and the weights "
            f"add up to {n_points:g}"
        )
    return whole[0], whole[1], whole[2]


def _numbers(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataFormatError(f"holds what is no number ({error})") from error
    if array.size == 0 or not np.isfinite(array).all():
        raise DataFormatError("a number is missing or not finite")
    return array


def _check(found: Conductivity) -> None:
    """Refuse numbers that do not belong together."""
    n_points, n_bands = found.modes.shape
    shapes = {
        "weights": (found.weights.shape, (n_points,)),
        "q_points": (found.q_points.shape, (n_points, 3)),
        "frequencies": (found.frequencies.shape, (n_points, n_bands)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise DataFormatError(
                f"{name} have the shape {shape}; expected {expected}, as the modes"
            )
    if not (found.weights > 0).all():
        raise DataFormatError("a weight of a q-point is not positive")
    total = found.modes.sum() / found.weights.sum()
    if not found.kappa > 0 or abs(total / found.kappa - 1) > _TOLERANCE:
        raise DataFormatError(
            f"the modes add up to {total:.5g} W/m/K, and the whole is "
            f"{found.kappa:.5g}; one of the two is wrong"
        )
    magnitude = np.abs(found.modes).sum() / found.weights.sum()
    if magnitude > _MOST_MAGNITUDE * found.kappa:
        raise DataFormatError(
            f"the magnitudes of the modes add up to {magnitude:.5g} W/m/K, and the "
            f"modes to {found.kappa:.5g}: modes do not conduct less than nothing"
        )


def find_crystal(
    crystals: Mapping[str, ReferenceCrystal],
    names: Iterable[str],
    formula: str,
    space_groups: Sequence[int],
) -> ReferenceCrystal | None:
    """Find a crystal by its identifiers, or else by formula and space group.

    Args:
        crystals: by identifier.
        names: that the crystal may be known by.
        formula: reduced, of ``reduce_formula``.
        space_groups: number, and those of larger tolerances, which a crystal found by
            its identifier may have, too.

    Returns:
        None where there is none, or several of that formula and space group.

    Raises:
        OtherCrystalError: the one of that identifier has another formula.
    """
    for name in names:
        if name in crystals:
            _check_same(crystals[name], formula, space_groups)
            return crystals[name]
    same = [
        crystal
        for crystal in crystals.values()
        if crystal.space_group == space_groups[0]
        and reduce_formula(crystal.formula) == formula
    ]
    return same[0] if len(same) == 1 else None


def _check_same(
    found: ReferenceCrystal, formula: str, space_groups: Sequence[int]
) -> None:
    theirs = reduce_formula(found.formula)
    if theirs not in ("", formula):
        raise OtherCrystalError(
            f"this is {formula}, and {found.name} of the reference is {theirs}. "
            "Correct the identifier of one of them."
        )
    if found.space_group not in (0, *space_groups):
        warnings.warn(
            f"{found.name}: the crystal has space group {space_groups[0]}, and that of "
            f"the reference {found.space_group}. Are both the same?",
            stacklevel=4,
        )


def reduce_formula(formula: str) -> str:
    """Reduce a formula, elements in alphabetical order; empty for what is none.

    >>> reduce_formula("Mg4O4"), reduce_formula("OMg")
    ('MgO', 'MgO')
    """
    try:
        return Formula(formula).reduce()[0].format("abc")
    except ValueError:
        return ""
