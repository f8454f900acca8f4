"""Where structures come from, and how many make a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pft_lightning import keys
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import MAX_ENERGY, MAX_FORCE, MAX_STRESS
from pft_lightning.data.sources import Spec
from pft_lightning.option_types import (
    As,
    EVPerAngstrom,
    EVPerAtom,
    EVPerCubicAngstrom,
    NAtoms,
    NEdges,
    NStructures,
    Paths,
)


@dataclass(frozen=True, slots=True)
class PhononSource:
    """Where phonon structures come from, and how many make a batch.

    Attributes:
        train: File, folder, glob, store or list of them.
        val: The same; None holds out a share of ``train``.
        batch_size: Structures per process and step.
        max_atoms: Atoms per process and step, or None.
        max_edges: Edges per process and step, or None.
        options: How files are read: units, tolerances, whether structures are
            relaxed. A store that is given as it is was read with its own.
    """

    train: Annotated[Spec, As(Paths | None)]  # None beside mace_config only
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
        train: Extended XYZ, ASE database, aselmdb, or a list; None co-trains on
            nothing.
        val: The same; None holds out a share of ``train``.
        batch_size: Structures per process and step.
        max_atoms: Atoms per process and step, or None.
        max_edges: Edges per process and step, or None; graphs are then built once
            at the start to count them.
        energy_key: Name of the energy in the files; None takes the usual names of
            reference values, else ASE's calculator results.
        forces_key: The same for forces.
        stress_key: The same for the stress.
        max_force: Largest component of a force, eV/Å; frames beyond are left out.
        max_stress: Largest component of the stress, eV/Å³; likewise.
        max_energy: Largest energy, eV/atom; likewise.
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
