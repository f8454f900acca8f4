"""Structures along soft modes of a potential, to be labelled by DFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import ase
from phonopy import Phonopy

from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ConfigError, DataFormatError, PFTError
from pft_lightning.evaluation.failures import check_failure
from pft_lightning.evaluation.protocols import get_protocol
from pft_lightning.evaluation.soft_modes.frames import path_frames
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.runner import (
    compute_generations,
    with_soft_modes,
)


def soft_mode_frames(
    model: EnergyModel,
    supercells: Iterable[tuple[str, Phonopy]],
    options: SoftModeOptions,
) -> tuple[list[ase.Atoms], int]:
    """Structures along the wells of soft modes, and those that they end in.

    Crystals are relaxed first, by the protocol ``mdr_analytic``. One that fails is
    named in a warning at the end; one without soft modes gives none.

    Args:
        model: in float64.
        supercells: of the crystals, by name.
        options: which soft modes, and how far.

    Returns:
        The structures, see ``path_frames``, and the number of crystals with soft modes.

    Raises:
        DataFormatError: all crystals failed.
        ConfigError: none has a soft mode.
    """
    protocol = with_soft_modes(get_protocol("mdr_analytic"), options)
    frames: list[ase.Atoms] = []
    failed: list[str] = []
    n_crystals, n_soft = 0, 0
    for name, cells in supercells:
        n_crystals += 1
        try:
            generations, _ = compute_generations(model, cells, protocol)
        except PFTError as error:
            check_failure(error)
            failed.append(f"{name}: {error}")
            continue
        found = path_frames(generations, name)
        n_soft += bool(found)
        frames.extend(found)
    if failed:
        warnings.warn("\n".join(["These crystals failed:", *failed]), stacklevel=2)
    if n_crystals == len(failed):
        raise DataFormatError(f"no crystal could be computed ({failed[0]}).")
    if not frames:
        raise ConfigError(
            f"none of {n_crystals} crystals has a mode below -{options.threshold:g} "
            "THz; lower soft_modes.threshold, or take larger supercells."
        )
    return frames, n_soft
