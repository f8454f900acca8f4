"""From force constants to frequencies, densities of states and thermal properties."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

from pft_lightning.evaluation.folder import ENTROPY, FREE_ENERGY, HEAT_CAPACITY
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.interpolation import mesh_numbers as numbers_of_mesh
from pft_lightning.types import BandStructure, PhononProperties


# Distance that the frequencies of a density of states reach beyond the last mode, in
# standard deviations of the smearing.
DOS_MARGIN = 6.0


def mesh_numbers(phonon: Phonopy, mesh: float | tuple[int, int, int]) -> list[int]:
    """Numbers of q-points along the axes of the primitive cell's reciprocal lattice.

    Args:
        phonon: gives the primitive cell.
        mesh: a length l in Å, n_i = max(1, round(l |a*_i|)) without the factor 2π, or
            the numbers themselves.
    """
    if isinstance(mesh, tuple):
        return [int(n) for n in mesh]
    return numbers_of_mesh(phonon.primitive.cell, mesh)


def compute_properties(
    phonon: Phonopy,
    protocol: Protocol,
    *,
    mesh: list[int] | None = None,
    mesh_symmetry: bool = True,
    path: BandPath | None = None,
) -> PhononProperties:
    """Compute all that an evaluation compares, with phonopy.

    Args:
        phonon: with force constants, eV and Å. It keeps phonopy's results, and loses
            its Born charges where the protocol does not use them.
        protocol: mesh, temperatures, smearing, band structure, correction for Born
            charges.
        mesh: numbers of q-points; those of the reference where two compare.
        mesh_symmetry: leave out q-points that symmetry gives.
        path: of the band structure; that of the reference where two compare. None is
            the cell's own.

    Source: phonopy (A. Togo, J. Phys. Soc. Jpn. 92, 012001, 2023).
    """
    polar = phonon.nac_params is not None and protocol.non_analytical
    if not polar and phonon.nac_params is not None:
        phonon.nac_params = None
    frequencies, weights = _sample(
        phonon,
        mesh or mesh_numbers(phonon, protocol.mesh),
        is_gamma_center=protocol.is_gamma_center,
        symmetry=mesh_symmetry,
    )
    first, last, step = protocol.temperatures
    temperatures = np.unique(
        [*np.arange(first, last + step / 2, step), protocol.temperature]
    )
    dos_frequencies, dos = _density_of_states(phonon, frequencies, protocol)
    commensurate = _commensurate_frequencies(phonon)
    return PhononProperties(
        commensurate_frequencies=commensurate,
        commensurate_weights=np.full(len(commensurate), 1 / len(commensurate)),
        mesh_frequencies=frequencies,
        mesh_weights=weights / weights.sum(),
        dos_frequencies=dos_frequencies,
        dos=dos,
        temperatures=temperatures,
        **thermal_properties(phonon, temperatures, protocol),
        bands=(
            _bands(phonon, path or find_path(phonon, protocol.band_points))
            if protocol.band_points
            else None
        ),
        force_constants=from_phonopy(phonon)[0].compact,
        non_analytical=polar,
    )


def thermal_properties(
    phonon: Phonopy, temperatures: np.ndarray, protocol: Protocol
) -> dict[str, np.ndarray]:
    """Free energy, entropy and heat capacity by name, (n_temperatures,) each.

    Args:
        phonon: whose mesh has been run.
        temperatures: (n_temperatures,), K, in any order.
        protocol: which modes are left out.
    """
    phonon.run_thermal_properties(
        temperatures=temperatures, cutoff_frequency=protocol.cutoff_frequency
    )
    # The same in phonopy 3 and 4: temperatures, free energy, entropy, heat capacity.
    calculated = phonon.thermal_properties
    assert calculated is not None
    found = calculated.thermal_properties
    assert found is not None
    names = (FREE_ENERGY, ENTROPY, HEAT_CAPACITY)
    return dict(zip(names, map(np.array, found[1:]), strict=True))


def _sample(
    phonon: Phonopy, numbers: list[int], *, is_gamma_center: bool, symmetry: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies on a mesh, (n_points, n_bands), and how often each point counts."""
    with warnings.catch_warnings():
        # A mesh that breaks the symmetry is sampled in full, as it should be.
        warnings.filterwarnings("ignore", message="Mesh .* is incompatible")
        warnings.filterwarnings("ignore", message="Half-grid shift")
        phonon.run_mesh(
            numbers, is_gamma_center=is_gamma_center, is_mesh_symmetry=symmetry
        )
    sampled: Any = phonon.mesh
    return np.array(sampled.frequencies), np.asarray(sampled.weights, dtype=np.float64)


def sample_mesh(
    phonon: Phonopy, mesh: float | tuple[int, int, int], *, is_gamma_center: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Irreducible q-points (n_q, 3) of a mesh, and weights (n_q,) of sum 1.

    Args:
        phonon: with force constants, eV and Å.
        mesh: as of ``mesh_numbers``.
        is_gamma_center: as of ``Protocol``.
    """
    _, weights = _sample(
        phonon,
        mesh_numbers(phonon, mesh),
        is_gamma_center=is_gamma_center,
        symmetry=True,
    )
    sampled: Any = phonon.mesh
    return np.array(sampled.qpoints), weights / weights.sum()


def _commensurate_frequencies(phonon: Phonopy) -> np.ndarray:
    """Frequencies at the q-points whose waves fit the supercell, THz."""
    # Primitive.primitive_matrix relates to the supercell.
    matrix = np.linalg.inv(phonon.primitive.primitive_matrix)
    points = get_commensurate_points(np.rint(matrix).astype(np.int64))
    phonon.run_qpoints(points)
    assert phonon.qpoints is not None
    return np.array(phonon.qpoints.frequencies)


def _density_of_states(
    phonon: Phonopy, frequencies: np.ndarray, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray]:
    """Smeared density of states at multiples of the pitch.

    Two of them share their points wherever both have some.
    """
    pitch = protocol.dos_pitch
    margin = DOS_MARGIN * protocol.dos_smearing
    first = int(np.floor((frequencies.min() - margin) / pitch))
    last = int(np.ceil((frequencies.max() + margin) / pitch))
    phonon.run_total_dos(
        sigma=protocol.dos_smearing,
        freq_min=first * pitch,
        freq_max=last * pitch,
        freq_pitch=pitch,
        use_tetrahedron_method=False,
    )
    assert phonon.total_dos is not None
    dos = np.array(phonon.total_dos.dos)
    return np.arange(first, first + len(dos)) * pitch, dos


class BandPath(NamedTuple):
    """Segments of q-points between special points of the Brillouin zone.

    Attributes:
        qpoints: per segment (n_q, 3), fractional in the reciprocal primitive cell.
        labels: of the ends, each once where the path goes on.
        path_connections: per segment, whether the path goes on behind it.
    """

    qpoints: list[np.ndarray]
    labels: list[str]
    path_connections: list[bool]


def find_path(phonon: Phonopy, points: int) -> BandPath:
    """Path of a band structure, by seekpath.

    Args:
        phonon: gives the primitive cell.
        points: of a segment of average length.
    """
    with warnings.catch_warnings():
        # An angle near 90 degrees: either choice of axes gives a path.
        warnings.filterwarnings("ignore", ".*almost equal", module="seekpath")
        qpoints, labels, connections = get_band_qpoints_by_seekpath(
            phonon.primitive, points, is_const_interval=True
        )
    return BandPath(qpoints, labels, connections)


def path_of(phonon: Phonopy) -> BandPath | None:
    """Path of a band structure that phonopy has computed; None where it has not."""
    if (bands := phonon.band_structure) is None:
        return None
    return BandPath(bands.qpoints, bands.labels or [], bands.path_connections)


def _bands(phonon: Phonopy, path: BandPath) -> BandStructure:
    phonon.run_band_structure(
        path.qpoints, path_connections=path.path_connections, labels=path.labels
    )
    bands = phonon.band_structure
    assert bands is not None
    labels = []
    remaining = list(path.labels)
    for connected in path.path_connections:
        labels.append((remaining[0], remaining[1]))
        # The end of a segment is the start of the next where the path goes on.
        del remaining[: 1 if connected else 2]
    return BandStructure(
        distances=[np.array(d) for d in bands.distances],
        frequencies=[np.array(f) for f in bands.frequencies],
        labels=labels,
    )
