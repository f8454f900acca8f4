"""The crystals that values were measured of, and cells that hold their waves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.crystals import Crystal, check_bulk, list_crystals
from pft_lightning.data.measured.charges import charges_of
from pft_lightning.data.readers.content import count_atoms
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.phonopy import make_phonopy
from pft_lightning.data.records import StructureRecord, validate
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError, ShapeError
from pft_lightning.physics.commensurate import wave_cell
from pft_lightning.physics.force_constants import ForceConstants, translation_maps
from pft_lightning.physics.interpolation import InterpolationMesh, mesh_numbers
from pft_lightning.physics.irreps import irrep_bases
from pft_lightning.physics.long_range import BornCharges


# Leaves a crystal in the cell of its file.
_AS_IT_IS = SupercellOptions(supercell_matrix=(1, 1, 1))
_OPTIONS = PhononReadOptions()

# Gives the unit cell of a crystal as a potential relaxes it.
Relax = Callable[[Phonopy], Atoms]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCrystal:
    """A primitive cell.

    Attributes:
        name: of the crystal.
        atomic_numbers: (n_primitive,), int64.
        cell: (3, 3), Å, lattice vectors as rows: those of the file where its cell is
            primitive, else those that phonopy makes of it (``primitive_matrix=auto``).
        positions: (n_primitive, 3), Å.
        symprec: of the symmetry search, Å.
        where: file, for messages.
        born: Born charges of these atoms, which sum to zero; None without.
        no_born: why there are none.
    """

    name: str
    atomic_numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    symprec: float
    where: str
    born: BornCharges | None = None
    no_born: str = ""

    @property
    def n_atoms(self) -> int:
        """Atoms of the primitive cell."""
        return len(self.atomic_numbers)

    @property
    def masses(self) -> np.ndarray:
        """(n_primitive,), AMU, of the elements."""
        found: np.ndarray = atomic_masses[self.atomic_numbers]
        return found

    def at_q_point(self, q_point: Sequence[Fraction], name: str) -> StructureRecord:
        """The smallest cell that a q-point fits, with a layout of force constants.

        Args:
            q_point: (3,), fractions of the reciprocal vectors of the cell.
            name: of the record.
        """
        cell, positions, layout = wave_cell(
            self.positions, self.cell, self.masses, q_point
        )
        numbers = self.atomic_numbers[layout.primitive_index]
        return self._record(name, numbers, positions, cell, layout)

    def irreps(self) -> dict[str, np.ndarray]:
        """Bases of the modes at Γ by representation, see ``irrep_bases``.

        Raises:
            DataFormatError: phonopy's tables do not describe its symmetry.
        """
        found = self.to_phonopy(np.eye(3, dtype=np.int64)).primitive_symmetry
        try:
            return irrep_bases(
                self.positions, self.cell, self.masses, found.dataset, self.symprec
            )
        except ShapeError as error:
            raise DataFormatError(
                f"{self.where}: its modes cannot be told apart by symmetry. {error} "
                "Leave out the column irrep, or number the branches."
            ) from error

    def long_range_matrix(self, direction: Sequence[int], asked: str) -> np.ndarray:
        """What long-range dipoles add to the dynamical matrix at Γ.

        Args:
            direction: (3,), fractions of the reciprocal vectors of the cell.
            asked: file and line that need it, for messages.

        Returns:
            (3 n_primitive, 3 n_primitive), eV/Å²/AMU.

        Raises:
            DataFormatError: no Born charges are known.
        """
        if self.born is None:
            raise DataFormatError(
                f"{asked}: direction is {' '.join(map(str, direction))}, which needs "
                f"Born charges of {self.name}: {self.no_born} Put phonopy's BORN "
                "beside the crystal, in a folder of their own, or take the line out."
            )
        return self.born.matrix(np.array(direction, float), self.masses, self.cell)

    def in_supercell(
        self, options: SupercellOptions, mesh: float, name: str
    ) -> tuple[StructureRecord, InterpolationMesh]:
        """A supercell with a layout of force constants, and q-points to interpolate at.

        Args:
            options: which supercell of the primitive cell.
            mesh: length of ``mesh_numbers``, Å.
            name: of the record.

        Raises:
            DataFormatError: the supercell is too large, or the crystal has no symmetry
                that can be found.
        """
        phonon = self.repeated(options)
        supercell, primitive = phonon.supercell, phonon.primitive
        primitive_index, translation_index = translation_maps(primitive)
        layout = ForceConstants(
            compact=np.zeros((len(primitive), len(supercell), 3, 3)),
            primitive_index=primitive_index,
            translation_index=translation_index,
            permutations=np.asarray(primitive.atomic_permutations, dtype=np.int64),
            equivalent_atoms=np.asarray(phonon.symmetry.get_map_atoms(), np.int64),
        )
        points = InterpolationMesh.of(
            primitive,
            phonon.primitive_symmetry.pointgroup_operations,
            mesh_numbers(self.cell, mesh),
        )
        numbers = np.array(supercell.numbers, dtype=np.int64)
        record = self._record(
            name, numbers, supercell.positions, supercell.cell, layout
        )
        return record, points

    def repeated(self, options: SupercellOptions) -> Phonopy:
        """Make a supercell of the primitive cell.

        Args:
            options: which one; a matrix or a length is given.

        Raises:
            DataFormatError: it is too large, or the crystal has no symmetry that can be
                found.
        """
        matrix = options.asked_for(self.cell)
        assert matrix is not None
        count_atoms(self.atomic_numbers, matrix, self.where)
        return self.to_phonopy(matrix)

    def relaxed(self, relax: Relax) -> MeasuredCrystal:
        """The crystal as a potential relaxes it; its lattice keeps its orientation."""
        atoms = relax(self.to_phonopy(np.eye(3, dtype=np.int64)))
        return replace(
            self,
            cell=np.array(atoms.cell.array, dtype=np.float64),
            positions=np.array(atoms.positions, dtype=np.float64),
        )

    def to_phonopy(self, supercell_matrix: np.ndarray) -> Phonopy:
        """Make a ``Phonopy`` object with a supercell of the primitive cell.

        Args:
            supercell_matrix: (3, 3), phonopy's convention.
        """
        unit = PhonopyAtoms(
            numbers=self.atomic_numbers,
            cell=self.cell,
            positions=self.positions,
            masses=self.masses,
        )
        return make_phonopy(unit, supercell_matrix, np.eye(3), "vasp", self.symprec)

    def _record(
        self,
        name: str,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        layout: ForceConstants,
    ) -> StructureRecord:
        structure = StructureRecord(
            name=name,
            atomic_numbers=numbers,
            positions=np.array(positions, dtype=np.float64),
            cell=np.array(cell, dtype=np.float64),
            pbc=np.ones(3, dtype=bool),
            info={"source": self.where},
        )
        # Checked without the layout, whose zeros are no force constants.
        return replace(validate(structure), force_constants=layout)


def read_crystals(
    spec: Spec, wanted: Collection[str], relax: Relax | None = None
) -> tuple[dict[str, MeasuredCrystal], list[tuple[str, str]]]:
    """Read the crystals that values name.

    Args:
        spec: files, folders, globs or a list of what ASE or phonopy reads.
        wanted: names, those of files without ending, or of the folder of a POSCAR.
        relax: relaxes each primitive cell; they stay as they are if left out.

    Returns:
        By name; and (file, reason) of those that nobody names.

    Raises:
        DataFormatError: one is not there, is there twice, or cannot be used.
    """
    listed, skipped = find_crystals(spec, wanted)
    found = {name: read_crystal(crystal) for name, crystal in listed.items()}
    if relax is not None:
        found = {name: crystal.relaxed(relax) for name, crystal in found.items()}
    return found, skipped


def find_crystals(
    spec: Spec,
    wanted: Collection[str],
    option: str = "data.measured.structures",
    options: PhononReadOptions = _OPTIONS,
) -> tuple[dict[str, Crystal], list[tuple[str, str]]]:
    """Find the crystals that values name, without reading them.

    Args:
        spec: as of ``read_crystals``.
        wanted: likewise.
        option: that gives the files, for messages.
        options: units and tolerance of the symmetry search.

    Returns:
        By name; and (file, reason) of those that nobody names.

    Raises:
        DataFormatError: one is not there, or is there twice.
    """
    found: dict[str, Crystal] = {}
    skipped: list[tuple[str, str]] = []
    others: set[str] = set()
    for listed in list_crystals(spec, _AS_IT_IS, options):
        if listed.name not in wanted:
            reason = (
                f"{listed.source}: no measured value names {listed.name!r}; it is left "
                "out. Name its file as the tables do, or take it out."
            )
            skipped.append((listed.source, reason))
            others.add(listed.name)
            continue
        if listed.name in found:
            raise DataFormatError(
                f"{listed.source}: is called {listed.name!r} like "
                f"{found[listed.name].source}; rename one of them."
            )
        found[listed.name] = listed
    missing = sorted(set(wanted) - set(found))
    if missing:
        known = sorted({*found, *others})
        raise DataFormatError(
            f"{missing[0]}: values are given of this crystal, and no structure has its "
            f"name; there are {', '.join(known[:10]) or 'none'}. Add its file to "
            f"{option}, or correct the name."
        )
    return found, skipped


def read_crystal(listed: Crystal) -> MeasuredCrystal:
    """Read the primitive cell of a crystal.

    Raises:
        DataFormatError: it cannot be used.
    """
    check_bulk(listed.n_periodic, listed.source)
    phonon = listed.read()
    primitive: PhonopyAtoms = phonon.primitive
    if len(primitive) == len(phonon.unitcell):
        # phonopy may choose other vectors of the same lattice.
        primitive = phonon.unitcell
    born, no_born = charges_of(listed, phonon, primitive)
    return MeasuredCrystal(
        name=listed.name,
        atomic_numbers=np.array(primitive.numbers, dtype=np.int64),
        cell=np.array(primitive.cell, dtype=np.float64),
        positions=np.array(primitive.positions, dtype=np.float64),
        symprec=float(phonon.symmetry.tolerance),
        where=listed.source,
        born=born,
        no_born=no_born,
    )
