"""Phonons of a material in files that phonopy and its commands read.

============================  =======================================================
``phonopy_params.yaml``       cells, Born charges and force constants
``FORCE_CONSTANTS``           force constants alone, as text
``force_constants.hdf5``      the same, as HDF5
``phonopy.yaml``              cells and Born charges, where phonopy_params.yaml is not
``band.yaml``                 bands along the path of seekpath
``total_dos.dat``             density of states
``thermal_properties.yaml``   free energy, entropy and heat capacity
============================  =======================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_CONSTANTS, write_force_constants_to_hdf5

from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.types import PhononProperties


Format = Literal["phonopy_params.yaml", "FORCE_CONSTANTS", "force_constants.hdf5"]

_PARAMS: Final = "phonopy_params.yaml"
_TEXT: Final = "FORCE_CONSTANTS"
_HDF5: Final = "force_constants.hdf5"
_CELLS: Final = "phonopy.yaml"
_BANDS: Final = "band.yaml"
_DOS: Final = "total_dos.dat"
_THERMAL: Final = "thermal_properties.yaml"


def file_names(formats: Iterable[Format], protocol: Protocol) -> set[str]:
    """Names of all files that are written for a material."""
    names = {*formats, _DOS, _THERMAL}
    if _PARAMS not in names:
        names.add(_CELLS)
    return names | ({_BANDS} if protocol.band_points else set())


def write_phonons(
    phonon: Phonopy, folder: Path, formats: Iterable[Format], protocol: Protocol
) -> PhononProperties:
    """Write force constants, and what phonopy computes with them.

    Args:
        phonon: with compact force constants, eV and Å. It keeps phonopy's results, and
            loses its Born charges where the protocol does not use them.
        folder: that is there and empty.
        formats: of the force constants.
        protocol: mesh, temperatures, smearing, path.

    Returns:
        What was computed with them.
    """
    names = file_names(formats, protocol)
    # Before compute_properties, which may drop Born charges: a file keeps them.
    cells = _PARAMS if _PARAMS in names else _CELLS
    phonon.save(folder / cells, settings={"force_constants": cells == _PARAMS})
    array = phonon.force_constants
    assert array is not None
    rows = np.array(phonon.primitive.p2s_map, dtype=np.int64)
    if _TEXT in names:
        write_FORCE_CONSTANTS(array, folder / _TEXT, p2s_map=rows)
    if _HDF5 in names:
        write_force_constants_to_hdf5(
            array, str(folder / _HDF5), p2s_map=rows, physical_unit="eV/angstrom^2"
        )
    properties = compute_properties(phonon, protocol)
    if _BANDS in names:
        phonon.write_yaml_band_structure(filename=folder / _BANDS)
    phonon.write_total_dos(filename=folder / _DOS)
    phonon.write_yaml_thermal_properties(filename=folder / _THERMAL)
    return properties
