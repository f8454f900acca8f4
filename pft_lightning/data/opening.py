"""Sources that a training opens, with warnings of what is left out of them."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn

from pft_lightning.data.elastic import ElasticCrystals
from pft_lightning.data.measured.crystals import Relax
from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.settings import MeasuredSource, UpstreamSource
from pft_lightning.data.sources import Spec
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import ConfigError


def open_frames(spec: Spec, cutoff: float, source: UpstreamSource) -> UpstreamFrames:
    """Open frames with energies, forces and stresses.

    Args:
        spec: of the files.
        cutoff: of the graphs, Å.
        source: how they are read.
    """
    frames = UpstreamFrames(
        spec,
        cutoff,
        source.names,
        max_force=source.max_force,
        max_stress=source.max_stress,
        max_energy=source.max_energy,
    )
    if not frames.is_plain:
        rank_zero_warn(f"Upstream frames {spec}: {frames.summary()}")
    return frames


def open_crystals(spec: Spec, cutoff: float) -> ElasticCrystals:
    """Open crystals with elastic constants.

    Args:
        spec: of the files.
        cutoff: of the graphs, Å.
    """
    crystals = ElasticCrystals(spec, cutoff)
    if crystals.skipped:
        rank_zero_warn(f"Elastic crystals {spec}: {crystals.summary()}")
    return crystals


def open_measured(
    spec: Spec, cutoff: float, source: MeasuredSource, relax: Relax | None
) -> MeasuredValues:
    """Open measured values.

    Args:
        spec: of the files.
        cutoff: of the graphs, Å.
        source: how they are read.
        relax: relaxes crystals where the source says so.

    Raises:
        ConfigError: no crystals were given, or nothing relaxes them.
        DataFormatError: a file, a value or a crystal cannot be used.
    """
    if source.structures is None:
        raise ConfigError(
            f"data.measured has values ({spec}) and no crystals: set "
            "data.measured.structures to their CIF or POSCAR files."
        )
    if source.relax and relax is None:
        raise ConfigError(
            "data.measured.relax=true: nothing here relaxes crystals. Use pft-train, "
            "or give relaxed ones and relax=false."
        )
    values = MeasuredValues(
        spec,
        source.structures,
        cutoff,
        frequency_unit=source.frequency_unit,
        max_order=source.max_order,
        supercell=source.supercell(),
        mesh=source.mesh,
        relax=relax if source.relax else None,
    )
    if values.skipped:
        rank_zero_warn(f"Measured values {spec}: {values.summary()}")
    return values
