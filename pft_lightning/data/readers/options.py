"""How phonon calculations are read: one set of options for all readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np

from pft_lightning.data.records import MAX_FORCE
from pft_lightning.errors import ConfigError, DataFormatError, PFTError
from pft_lightning.option_types import (
    Angstrom,
    As,
    EVPerAngstrom,
    EVPerSquareAngstrom,
    ForceUnits,
    Matrix,
    Positive,
    Symprec,
    Text,
)
from pft_lightning.units import HESSIAN_UNITS, HessianUnit, unit_system


Relaxed = Literal["full", "positions", "none"]


@dataclass(frozen=True, slots=True)
class PhononReadOptions:
    """Options of reading phonon calculations.

    Attributes:
        max_asymmetry: largest broken acoustic sum rule, permutation or translation
            symmetry of the raw force constants, eV/Å². What is below is symmetrised
            away and reported; what is above is refused, since a calculation that
            noisy is no target. Of 837 phonondb PBEsol materials the median is 0.002
            and five exceed the default.
        max_relative_asymmetry: largest broken symmetry relative to the mean force
            constant of an atom with itself, so that soft crystals are held to it too.
            Of the 837 the median is 0.0002, and the three that exceed the default
            exceed that of ``max_asymmetry`` as well.
        max_third_order_asymmetry: largest share of third-order force constants that
            breaks the acoustic sum rules and permutation symmetry: the root mean
            square of what symmetrisation removes relative to theirs. What is below is
            removed and reported; four published calculations with pairs of
            displacements have 0.0004 to 0.023.
        relaxed: what is known to vanish at the reference structures: ``full``,
            forces and stress; ``positions``, forces only (phonons at a given volume);
            ``none``. The rest is masked. phonopy files never say which it is; the
            data sets that potentials are tuned on are relaxed tightly.
        units: units of files that do not tell theirs: a name of a code that phonopy
            knows ("vasp", "qe", ...) or "eV/angstrom", "Ry/au", "hartree/au". A file
            that tells others is an error.
        max_force: largest force of a displaced structure, eV/Å.
        max_displacement: largest displacement of an atom, Å. What moves atoms by a
            large part of a bond length measures no second derivative.
        supercell_matrix: supercell of folders with a bare POSCAR, 3 or 9 integers.
        fc_calculator: what turns displacements into force constants: phonopy's
            finite differences ("traditional") or a fit by symfc; "auto" takes symfc
            for random displacements.
        symprec: tolerance of the symmetry search, in the file's unit of length; None
            takes the one that the file was made with, else phonopy's 1e-5.
        hessian_key: Name of the Hessian in the info or the arrays of extended XYZ
            files; null takes the one whose name has "hessian" in it.
        hessian_units: Unit of the Hessians of molecules whose format has none (extended
            XYZ, hessian.npy).
        third_order: True reads third-order force constants too, of phono3py files that
            hold some; the structure is then the supercell of third order.
    """

    max_asymmetry: EVPerSquareAngstrom = 0.1
    max_relative_asymmetry: Positive = 0.05
    max_third_order_asymmetry: Positive = 0.1
    relaxed: Relaxed = "full"
    units: ForceUnits = None
    max_force: EVPerAngstrom = MAX_FORCE
    max_displacement: Angstrom = 0.5
    supercell_matrix: Annotated[tuple[int, ...] | None, As(Matrix)] = None
    fc_calculator: Literal["auto", "traditional", "symfc"] = "auto"
    symprec: Symprec | None = None
    hessian_key: Text | None = None
    hessian_units: HessianUnit = "eV/angstrom2"
    third_order: bool = False

    def __post_init__(self) -> None:
        """Check the values, and take lists from configuration files.

        Raises:
            ConfigError: a value makes no sense.
        """
        if self.relaxed not in get_args(Relaxed):
            raise ConfigError(
                f"relaxed={self.relaxed!r}; accepted: {', '.join(get_args(Relaxed))}."
            )
        if self.hessian_units not in HESSIAN_UNITS:
            raise ConfigError(
                f"hessian_units={self.hessian_units!r}; accepted: "
                f"{', '.join(HESSIAN_UNITS)}."
            )
        if self.fc_calculator not in ("auto", "traditional", "symfc"):
            raise ConfigError(
                f"fc_calculator={self.fc_calculator!r}; accepted: 'auto', "
                "'traditional', 'symfc'."
            )
        for name in (
            "max_asymmetry",
            "max_relative_asymmetry",
            "max_third_order_asymmetry",
            "max_force",
            "max_displacement",
            "symprec",
        ):
            value = getattr(self, name)
            if value is None and name == "symprec":
                continue
            if isinstance(value, (bool, str)) or not (
                isinstance(value, (int, float, np.number)) and value > 0
            ):
                raise ConfigError(f"{name}={value!r}; a positive number is needed.")
        if self.units is not None:
            unit_system(self.units)  # refuses what phonopy does not know
        if self.supercell_matrix is not None:
            object.__setattr__(self, "supercell_matrix", self._matrix())

    def _matrix(self) -> tuple[int, ...]:
        try:
            entries = np.ravel(np.asarray(self.supercell_matrix, dtype=float))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"supercell_matrix={self.supercell_matrix!r}; expected integers "
                f"({error})."
            ) from error
        if len(entries) not in (3, 9):
            raise ConfigError(
                f"supercell_matrix has {len(entries)} entries; expected 3 (diagonal) "
                "or 9 (row by row)."
            )
        if not np.array_equal(entries, np.rint(entries)):
            raise ConfigError(
                f"supercell_matrix={entries.tolist()}; integers are needed."
            )
        return tuple(int(entry) for entry in entries)

    def known_zeros(self, n_atoms: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Give forces (n_atoms, 3) and stress (3, 3) of a reference structure.

        Zero where ``relaxed`` says that they are known to be, else None.
        """
        forces = None if self.relaxed == "none" else np.zeros((n_atoms, 3))
        stress = np.zeros((3, 3)) if self.relaxed == "full" else None
        return forces, stress


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a file into an error that names the file.

    phonopy, yaml, lzma, h5py and lmdb raise a dozen kinds of exceptions, KeyError and
    IndexError among them, for files that are damaged.

    Raises:
        DataFormatError: in place of any exception but our own and MemoryError.
    """
    try:
        yield
    except (PFTError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataFormatError(
            f"{path}: no such file ({error.filename}). Check the path."
        ) from error
    except EOFError as error:
        raise DataFormatError(
            f"{path}: the file ends early ({error}). It was truncated on the way: copy "
            "or download it again."
        ) from error
    except Exception as error:
        raise DataFormatError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). Check that the "
            "file is complete and of the kind that its name says; write it again."
        ) from error
