"""Where structures come from, and how many make a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from pft_lightning import keys
from pft_lightning.data.measured.rows import MAX_ORDER
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import MAX_ENERGY, MAX_FORCE, MAX_STRESS
from pft_lightning.data.sources import Spec
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.option_types import (
    Angstrom,
    As,
    EVPerAngstrom,
    EVPerAtom,
    EVPerCubicAngstrom,
    Matrix,
    NAtoms,
    NEdges,
    NStructures,
    Paths,
    Words,
)
from pft_lightning.units import FrequencyUnit


# Null beside mace_config alone, which the commands say.
_TrainPaths = Annotated[Paths | None, Words("a path, or a list", is_complete=True)]


@dataclass(frozen=True, slots=True)
class PhononSource:
    """Where phonon structures come from, and how many make a batch.

    Attributes:
        train: Phonons to train on: file, folder, glob, store or list of them.
        val: Phonons of the validation; None holds out a share of ``train``.
        batch_size: Structures per process and step.
        max_atoms: Most atoms per process and step; None sets no limit.
        max_edges: Most edges per process and step; None sets no limit.
        options: How files are read: units, tolerances, whether structures are
            relaxed. A store that is given as it is was read with its own.
    """

    train: Annotated[Spec, As(_TrainPaths)]
    val: Annotated[Spec | None, As(Paths | None)] = None
    batch_size: NStructures = 16
    max_atoms: NAtoms | None = None
    max_edges: NEdges | None = None
    options: Annotated[PhononReadOptions, As(dict[str, Any])] = field(
        default_factory=PhononReadOptions
    )


@dataclass(frozen=True, slots=True)
class UpstreamSource:
    """Where energy, force and stress frames come from, and how many make a batch.

    Attributes:
        train: Frames to co-train on: extended XYZ, ASE database, aselmdb, or a list;
            None co-trains on nothing.
        val: Frames of the validation; None holds out a share of ``train``.
        batch_size: Structures per process and step.
        max_atoms: Most atoms per process and step; None sets no limit.
        max_edges: Most edges per process and step; None sets no limit. With one, all
            graphs are built at the start to count them.
        energy_key: Name of the energy in the files; None takes the usual names of
            reference values, else ASE's calculator results.
        forces_key: Name of the forces in the files; None likewise.
        stress_key: Name of the stress in the files; None likewise.
        max_force: Largest component of a force, eV/Å; frames beyond are left out.
        max_stress: Largest component of the stress, eV/Å³; frames beyond are left out.
        max_energy: Largest energy, eV/atom; frames beyond are left out.
    """

    train: Annotated[Spec | None, As(Paths | None)] = None
    val: Annotated[Spec | None, As(Paths | None)] = None
    batch_size: NStructures = 64
    max_atoms: NAtoms | None = None
    max_edges: NEdges | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    max_force: EVPerAngstrom = MAX_FORCE
    max_stress: EVPerCubicAngstrom = MAX_STRESS
    max_energy: EVPerAtom = MAX_ENERGY

    @property
    def names(self) -> dict[str, str | None]:
        """Names of the targets in the files, by target."""
        return {
            keys.ENERGY: self.energy_key,
            keys.FORCES: self.forces_key,
            keys.STRESS: self.stress_key,
        }


@dataclass(frozen=True, slots=True)
class ElasticSource:
    """Where crystals with elastic constants come from, and how many make a batch.

    Attributes:
        train: Crystals to train on: tables (.json) or extended XYZ, or a list; None
            trains on none.
        val: Crystals of the validation; None holds out a share of ``train``.
        batch_size: Crystals per process and step.
        max_atoms: Most atoms per process and step; None sets no limit.
        max_edges: Most edges per process and step; None sets no limit.
    """

    train: Annotated[Spec | None, As(Paths | None)] = None
    val: Annotated[Spec | None, As(Paths | None)] = None
    batch_size: NStructures = 4
    max_atoms: NAtoms | None = None
    max_edges: NEdges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredReading:
    """How measured values are read, and in which cells they are computed.

    Attributes:
        frequency_unit: Of tables of frequencies without a column for it.
        max_order: Most primitive cells that a q-point may need; of band structures and
            meshes those beyond are left out.
        supercell_matrix: Supercell of thermal properties and densities of states, of
            the primitive cell, 3 or 9 integers.
        min_length: Smallest distance of opposite faces of that supercell, where no
            matrix is given.
    """

    frequency_unit: FrequencyUnit | None = None
    max_order: Annotated[int, Field(ge=1, le=MAX_ORDER)] = 8
    supercell_matrix: Annotated[Sequence[int] | None, As(Matrix)] = None
    min_length: Angstrom = 10.0

    def supercell(self) -> SupercellOptions:
        """The supercell that is asked for.

        Raises:
            ConfigError: the matrix makes none.
        """
        matrix = self.supercell_matrix
        length = None if matrix is not None else self.min_length
        return SupercellOptions(supercell_matrix=matrix, min_length=length)


@dataclass(frozen=True, slots=True)
class MeasuredSource(MeasuredReading):
    """Where measured frequencies and thermal properties come from.

    Attributes:
        train: Values to train on: tables (.csv), or band.yaml, mesh.yaml,
            thermal_properties.yaml and total_dos.dat of phonopy, or a list; None trains
            on none.
        val: Values of the validation; None holds out a share of ``train``.
        structures: Crystals of all of them, which the values name: CIF, POSCAR and what
            else ASE or phonopy reads, or a list.
        relax: Relax the crystals by the base model before anything is computed.
        mesh: Length that sets the q-points of thermal properties and densities of
            states, as phonopy's.
        batch_size: Items (a quantity of a crystal, or frequencies at a q-point) per
            process and step.
        max_atoms: Most atoms per process and step; None sets no limit.
        max_edges: Most edges per process and step; None sets no limit.
    """

    train: Annotated[Spec | None, As(Paths | None)] = None
    val: Annotated[Spec | None, As(Paths | None)] = None
    structures: Annotated[Spec | None, As(Paths | None)] = None
    relax: bool = False
    mesh: Angstrom = 40.0
    batch_size: NStructures = 4
    max_atoms: NAtoms | None = None
    max_edges: NEdges | None = None
