"""Names of the fields of a neutral batch, with shape, dtype, unit and meaning.

A batch is a ``torch_geometric.data.Batch``. Structures do not interact; their
atoms are concatenated. Every backend converts from these fields to its own
input inside ``energy``.
"""

from __future__ import annotations

from typing import Final


# (n_atoms, 3) | float | Å | Cartesian positions
POSITIONS: Final = "positions"
# (n_structures, 3, 3) | float | Å | lattice vectors as rows
CELL: Final = "cell"
# (n_structures, 3) | bool | periodic along each lattice vector
PBC: Final = "pbc"
# (n_atoms,) | int64 | atomic numbers
ATOMIC_NUMBERS: Final = "atomic_numbers"
# (2, n_edges) | int64 | [centre, neighbour]; the vector of an edge is
# positions[neighbour] - positions[centre] + edge_shifts @ cell
EDGE_INDEX: Final = "edge_index"
# (n_edges, 3) | integer | periodic image of the neighbour
EDGE_SHIFTS: Final = "edge_shifts"
# (n_atoms,) | int64 | structure that an atom belongs to
STRUCTURE_INDEX: Final = "batch"

# (n_structures,) | float | eV | reference energy, 0 where masked
ENERGY: Final = "energy"
# (n_atoms, 3) | float | eV/Å | reference forces, 0 where masked
FORCES: Final = "forces"
# (n_structures, 3, 3) | float | eV/Å³ | reference stress, ASE's sign, 0 where masked
STRESS: Final = "stress"
# (n_structures,) | bool | the reference energy (forces, stress) is known
ENERGY_MASK: Final = "energy_mask"
FORCES_MASK: Final = "forces_mask"
STRESS_MASK: Final = "stress_mask"

# (n_structures, 3) | float | 1 | what the errors of energy, forces and stress of a
# structure count by in the loss; 1 where a batch has no such field
WEIGHTS: Final = "weights"

# (n_structures,) | bool | counts in losses and metrics; False for a structure that
# only keeps a process busy where there are fewer structures than processes
COUNTED: Final = "counted"

# list of str, one per structure | where the structure comes from, unique in a source
NAME: Final = "name"
# That of structures that only fill a batch up to the size of others.
PADDING: Final = "padding"
# list of str, one per structure | output head that the reference belongs to; empty
# where the source does not say, then the model's own
HEAD: Final = "head"
# list of ForceConstants, one per structure (phonon batches only)
FORCE_CONSTANTS: Final = "force_constants"

# (n_atoms, n_probes, 3) | float | 1 | directions that a training step takes, and
# eV/Å² | products of the force constants with them (phonon batches of a training only)
TANGENTS: Final = "tangents"
TARGETS: Final = "targets"
# list of str, one per structure | the draw that these are of
DRAW: Final = "draw"
# (n_structures,) | float | 1 | atoms of the cell divided by those of the calculated
# supercell (phonon batches only)
SHARE: Final = "share"

# (n_structures, 6, 6) | float | GPa | reference elastic constants, stress by strain in
# Voigt order, 0 where masked; (n_structures, 2) | float | GPa | bulk and shear modulus,
# likewise (elastic batches only, as all that follows)
ELASTIC_CONSTANTS: Final = "elastic_constants"
MODULI: Final = "moduli"
# (n_structures,) | bool | the elastic constants (both moduli) are known
CONSTANTS_MASK: Final = "constants_mask"
MODULI_MASK: Final = "moduli_mask"
# (n_structures,) | bool | they are those of ions that follow the cell
CLAMPED: Final = "clamped"

# list of Measurement, one per structure; their force constants are zero and say which
# atoms are translations of each other (measured batches only, as what follows)
MEASURED_VALUES: Final = "measured_values"
# list of str, one per structure | which property was measured
QUANTITY: Final = "quantity"

# What an ``Arrangement`` adds for one model, and itself.
# Arrangement | what was done, and for which model
ARRANGEMENT: Final = "arrangement"
# Edges | in the groups that the compiled messages work through; None without these
SORTED_EDGES: Final = "sorted_edges"
# NeighbourGroups | where the messages of Nequix are not compiled
NEIGHBOUR_GROUPS: Final = "neighbour_groups"
# (n_structures,) | int64 | output head that the structure belongs to; -1 for the one
# that the model uses
HEAD_INDEX: Final = "head_index"
# What ``EnergyModel.prepare`` adds, in the copy of the batch that it makes.
# Convolutions | what stands in for the tensor products; None without compiled messages
CONVOLUTIONS: Final = "convolutions"

# Sources of a training step: the keys of the dict of batches the loaders yield.
PHONON: Final = "phonon"
UPSTREAM: Final = "upstream"
ELASTIC: Final = "elastic"
MEASURED: Final = "measured"
