"""The only place that imports phono3py: its cells, displacements and force constants.

phono3py 4.10 renamed what a conductivity consists of, and its solver of third order
is the one that was tested, so older ones are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from packaging.version import InvalidVersion, Version

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import BackendUnavailableError, DataFormatError
from pft_lightning.physics.third_order_constants import ThirdOrderConstants


if TYPE_CHECKING:
    from phono3py import Phono3py


_OLDEST: Final = "4.10"
_INSTALL: Final = "pip install 'pft_lightning[kappa]'"

# Most numbers of third-order force constants that are held at once: 2 GiB.
_MAX_VALUES: Final = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class ThirdOrderRecord:
    """A crystal with its third-order force constants, checked, in eV and Å.

    Attributes:
        structure: the supercell of third order, with the force constants of second
            order in it where the source has some, and in ``info`` what was done:
            ``third_order_from``, ``removed_third_sum_rule`` and
            ``removed_third_permutation`` (eV/Å³), ``removed_third_share``.
        third_order: symmetrised.
        dataset: displacements and forces, of phono3py's type 1 (pairs) or 2 (all
            atoms); None where the source has force constants only.
        phonon_matrix: (3, 3), supercell of second order where it is another one.
    """

    structure: StructureRecord
    third_order: ThirdOrderConstants
    dataset: dict[str, Any] | None = None
    phonon_matrix: np.ndarray | None = None

    def to_phono3py(self) -> Phono3py:
        """Make the ``Phono3py`` object, with data set and force constants.

        Raises:
            BackendUnavailableError: phono3py is not there, or too old.
        """
        cells = self.structure.cells
        assert cells is not None  # no molecules here
        found = build_phono3py(cells, self.phonon_matrix)
        found.dataset = self.dataset  # type: ignore[assignment]
        found.fc3 = self.third_order.compact
        second = self.structure.force_constants
        if second is not None and self.phonon_matrix is None:
            found.fc2 = second.compact
        return found


def check_phono3py(what: str = "conductivities") -> None:
    """Refuse to begin without a phono3py that can do it.

    Args:
        what: needs it, for messages.

    Raises:
        BackendUnavailableError: it is not installed, or too old.
    """
    try:
        found = version("phono3py")
    except PackageNotFoundError:
        raise BackendUnavailableError(
            f"phono3py is not installed; {what} need {_OLDEST} or newer: {_INSTALL}"
        ) from None
    try:
        too_old = Version(found) < Version(_OLDEST)
    except InvalidVersion:
        too_old = False
    if too_old:
        raise BackendUnavailableError(
            f"phono3py {found} is too old; {what} need {_OLDEST} or newer: {_INSTALL}"
        )
    try:
        import phono3py  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            f"phono3py {found} cannot be imported ({error}). Install it again: "
            f"{_INSTALL}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves what phono3py and phonopy say of cells that the user chose."""
    with warnings.catch_warnings():
        for message in (".*Point group symmetries", ".*primitive_matrix"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def make_phono3py(unitcell: Any, **choices: Any) -> Phono3py:
    """Build a silent ``Phono3py`` object.

    Args:
        unitcell: ``PhonopyAtoms``.
        **choices: of ``phono3py.Phono3py``.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
    """
    check_phono3py("third-order force constants")
    from phono3py import Phono3py

    with quiet():
        return Phono3py(unitcell, log_level=0, **choices)


def build_phono3py(
    cells: PhononCells, phonon_matrix: np.ndarray | None = None
) -> Phono3py:
    """Build the ``Phono3py`` object of given cells, in eV and Å.

    Args:
        cells: of third order.
        phonon_matrix: (3, 3), supercell of second order where it is another one.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
    """
    return make_phono3py(
        cells.to_phonopy().unitcell,
        supercell_matrix=cells.supercell_matrix,
        phonon_supercell_matrix=phonon_matrix,
        primitive_matrix=cells.primitive_matrix,
        symprec=cells.symprec,
    )


def copy_cells(phono3py: Phono3py) -> Phono3py:
    """Build another ``Phono3py`` object of the same cells of third order."""
    return make_phono3py(
        phono3py.unitcell,
        supercell_matrix=phono3py.supercell_matrix,
        primitive_matrix=phono3py.primitive_matrix,
        symprec=phono3py.symmetry.tolerance,
    )


def produce_third_order(
    cells: PhononCells, dataset: Mapping[str, Any], where: str
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Turn displacements and forces into force constants of both orders.

    Pairs are solved by phono3py's finite differences, displacements of all atoms by a
    fit of symfc; what is found is not symmetrised here.

    Args:
        cells: of third order.
        dataset: of type 1 or 2, eV and Å, complete.
        where: the file, for messages.

    Returns:
        Compact force constants of second (eV/Å²) and third order (eV/Å³), and the
        primitive cell.

    Raises:
        BackendUnavailableError: phono3py, or symfc where it is needed, is not there.
        DataFormatError: the displacements do not belong to the cells, or do not
            determine the force constants.
    """
    found = build_phono3py(cells)
    n_atoms = len(found.supercell)
    check_size(len(found.primitive), n_atoms, where)
    found.dataset = dataset  # type: ignore[assignment]
    if "first_atoms" in dataset:
        _check_pairs(found, dataset, where)
        calculator = None
    else:
        _check_determined(found, len(dataset["displacements"]), where)
        calculator = "symfc"
    with quiet():
        found.produce_fc3(fc_calculator=calculator)  # type: ignore[arg-type]
    return np.asarray(found.fc2), np.asarray(found.fc3), found.primitive


def check_size(n_primitive: int, n_atoms: int, where: str) -> None:
    """Refuse third-order force constants that would not fit into memory.

    Raises:
        DataFormatError: there are too many.
    """
    n_values = 27 * n_primitive * n_atoms**2
    if n_values > _MAX_VALUES:
        raise DataFormatError(
            f"{where}: third-order force constants of {n_primitive} atoms in a "
            f"supercell of {n_atoms} are {n_values} numbers; at most {_MAX_VALUES} are "
            "held. Give a smaller supercell of third order."
        )


def _check_pairs(found: Phono3py, dataset: Mapping[str, Any], where: str) -> None:
    """Check that symmetry turns the pairs into all pairs and directions.

    phono3py solves what is not determined by a pseudo-inverse without a word.
    """
    from phono3py.phonon3.displacement_fc3 import (
        get_bond_symmetry,
        get_least_orbits,
        get_reduced_site_symmetry,
    )

    supercell, symmetry = found.supercell, found.symmetry
    tolerance = symmetry.tolerance
    lattice = np.asarray(supercell.cell)
    for entry in dataset["first_atoms"]:
        atom = int(entry["number"])
        if atom not in found.primitive.p2s_map:
            raise DataFormatError(
                f"{where}: atom {atom + 1} is displaced first; expected those of the "
                f"primitive cell, {(found.primitive.p2s_map + 1).tolist()}. Give the "
                "primitive_matrix that the displacements were made with."
            )
        fractional = np.linalg.solve(lattice.T, entry["displacement"])
        left = get_reduced_site_symmetry(
            symmetry.get_site_symmetry(atom), fractional, tolerance
        )
        seconds: dict[int, list[np.ndarray]] = {}
        for second in entry["second_atoms"]:
            if second.get("included", True):
                moved = np.linalg.solve(lattice.T, second["displacement"])
                seconds.setdefault(int(second["number"]), []).append(moved)
        cut_off = "cutoff_distance" in dataset
        positions = supercell.scaled_positions
        for least in get_least_orbits(atom, supercell, left, tolerance):
            directions = seconds.get(int(least), [])
            bond = get_bond_symmetry(
                left, lattice.T, positions, atom, int(least), tolerance
            )
            vectors = np.array([r @ moved for r in bond for moved in directions])
            rank = np.linalg.matrix_rank(vectors.reshape(-1, 3) @ lattice, tol=1e-6)
            if rank < 3 and not (cut_off and not directions):
                raise DataFormatError(
                    f"{where}: after the displacement of atom {atom + 1}, the pairs "
                    f"and the symmetry give {rank} of 3 directions for atom "
                    f"{least + 1}. Displaced pairs are missing: run all that phono3py "
                    "-d lists."
                )


def _check_determined(found: Phono3py, n_frames: int, where: str) -> None:
    """Check that there are at least as many forces as free parameters of the fit."""
    try:
        from phonopy.interface.symfc import SymfcFCSolver

        solver = SymfcFCSolver(found.supercell, symmetry=found.symmetry)
    except ImportError as error:
        raise BackendUnavailableError(
            f"{where}: displacements of all atoms are fitted by symfc, which is not "
            f"installed ({error}): pip install symfc"
        ) from error
    sizes = solver.estimate_basis_size(orders=[2, 3])
    n_parameters, n_each = sum(sizes.values()), 3 * len(found.supercell)
    if n_frames * n_each < n_parameters:
        raise DataFormatError(
            f"{where}: {n_frames} displaced structures give {n_frames * n_each} forces "
            f"for {n_parameters} free force constants of both orders. Add at least "
            f"{-(-n_parameters // n_each) - n_frames} more."
        )
