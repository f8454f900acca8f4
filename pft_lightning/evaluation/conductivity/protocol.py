"""Protocols of conductivities: what exactly is computed before two are compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.protocols import Mesh, VolumeLimits
from pft_lightning.option_types import (
    Angstrom,
    As,
    Count,
    EVPerAngstrom,
    Kelvin,
    Symprec,
    Terahertz,
    Text,
    Unit,
    Words,
)


_Mask = Annotated[
    list[bool],
    Field(min_length=6, max_length=6),
    Words("six of true and false, for xx, yy, zz, yz, xz and xy"),
]
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("µm")]
_Smearing = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), Unit("THz")]

# Fields that decide the relaxed crystal, and with it all that follows; then those that
# decide its forces.
_RELAXATION: Final = (
    "relax",
    "n_stages",
    "fmax",
    "max_steps",
    "cell_mask",
    "relax_symprec",
    "volume_limits",
    "symprec",
)
_FORCES: Final = ("displacement",)


@dataclass(frozen=True, slots=True)
class ConductivityProtocol:
    """All choices that decide a conductivity and its score.

    There is no non-analytical correction: the published reference has none.

    Attributes:
        name: name of the protocol.
        relax: relax the crystal with the model first (``FIRE``, ``FrechetCellFilter``
            and ``FixSymmetry`` of ASE); otherwise it is taken as it is.
        n_stages: 2 relaxes once more without keeping the symmetry, and goes back to the
            first stage if the space group has changed.
        fmax: largest force of a relaxation that has converged, eV/Å.
        max_steps: steps of each stage; one that needs more ends there, and is marked.
        cell_mask: which strains are relaxed: xx, yy, zz, yz, xz, xy.
        relax_symprec: tolerance of the symmetry that is kept, Å.
        volume_limits: a relaxation whose volume leaves this range, relative to the
            crystal that was given, has exploded.
        symprec: tolerance of the space groups that are compared, and of phono3py, Å.
        displacement: length of the displacements of second and third order, Å.
        symmetrize_fc2: impose the sum rules and permutation symmetry on second order.
        symmetrize_fc3r: impose them on third order.
        mesh: q-points of a crystal that names none and has no reference: a length in
            Å, n_i = l |a*_i|, or three numbers.
        acoustic_limit: how far below zero the three acoustic frequencies at Γ may be;
            any other below zero makes the crystal unstable; THz.
        transport_type: of phono3py: ``SMM19``, Wigner transport (particles and
            coherence, arXiv:1901.01964).
        isotopes: scattering by natural isotopes.
        boundary_mfp: mean free path between boundaries, µm; None for none.
        smearing: width of Gaussians, THz; None for the tetrahedron method.
        temperature: of the conductivity, K.
    """

    name: Text = "matbench"
    relax: bool = True
    n_stages: Annotated[int, Field(ge=1, le=2)] = 1
    fmax: EVPerAngstrom = 0.02
    max_steps: Count = 500
    cell_mask: Annotated[tuple[bool, bool, bool, bool, bool, bool], As(_Mask)] = (
        *(True, True, True),
        *(False, False, False),
    )
    relax_symprec: Symprec = 0.01
    volume_limits: Annotated[tuple[float, float], As(VolumeLimits)] = (0.5, 2.0)
    symprec: Symprec = 1e-5
    displacement: Angstrom = 0.03
    symmetrize_fc2: bool = True
    symmetrize_fc3r: bool = True
    mesh: Annotated[float | tuple[int, int, int], As(Mesh)] = 45.0
    acoustic_limit: Terahertz = 0.01
    transport_type: Literal["SMM19"] = "SMM19"
    isotopes: bool = True
    boundary_mfp: _Length | None = 1e6
    smearing: _Smearing | None = None
    temperature: Kelvin = 300.0

    def __post_init__(self) -> None:
        """Check the values, and take lists from configuration files.

        Raises:
            ConfigError: a value makes no sense.
        """
        for field in ("volume_limits", "cell_mask"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not isinstance(self.mesh, (int, float)):
            object.__setattr__(self, "mesh", tuple(self.mesh))
        for field in ("displacement", "fmax", "max_steps", "temperature"):
            if not getattr(self, field) > 0:
                raise ConfigError(
                    f"protocol.{field}={getattr(self, field)}; a positive number is "
                    "needed."
                )
        if self.n_stages not in (1, 2):
            raise ConfigError(f"protocol.n_stages={self.n_stages}; expected 1 or 2.")
        if len(self.cell_mask) != 6:
            raise ConfigError(
                f"protocol.cell_mask={list(self.cell_mask)}; expected six of true and "
                "false, for xx, yy, zz, yz, xz and xy."
            )

    def relaxation(self) -> dict[str, Any]:
        """What decides the relaxed crystal."""
        return {name: getattr(self, name) for name in _RELAXATION}

    def forces(self) -> dict[str, Any]:
        """What decides the forces on displaced atoms, beside the relaxed crystal."""
        return {name: getattr(self, name) for name in _FORCES}


CONDUCTIVITY_PROTOCOLS: dict[str, ConductivityProtocol] = {
    "matbench": ConductivityProtocol(),
    "k_srme": ConductivityProtocol(name="k_srme", n_stages=2, fmax=1e-4, max_steps=300),
}


def get_protocol(protocol: str | ConductivityProtocol) -> ConductivityProtocol:
    """Give a protocol by name; one that is made already comes back as it is.

    Raises:
        ConfigError: unknown name.
    """
    if isinstance(protocol, ConductivityProtocol):
        return protocol
    if protocol not in CONDUCTIVITY_PROTOCOLS:
        raise ConfigError(
            f"protocol={protocol!r}; of conductivities expected one of "
            f"{', '.join(CONDUCTIVITY_PROTOCOLS)}."
        )
    return CONDUCTIVITY_PROTOCOLS[protocol]


def describe(protocol: ConductivityProtocol) -> dict[str, Any]:
    """Give the protocol as plain values, for files."""
    return dataclasses.asdict(protocol)
