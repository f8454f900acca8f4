"""phonopy's quasi-harmonic approximation over the volumes of a crystal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from phonopy.physical_units import get_physical_units
from phonopy.qha.core import QHA
from phonopy.qha.eos import fit_to_eos, get_eos

from pft_lightning.errors import QuasiHarmonicError
from pft_lightning.evaluation.qha.options import MIN_VOLUMES, QhaOptions
from pft_lightning.evaluation.qha.volumes import VolumePoint


@dataclass(frozen=True, slots=True, eq=False)
class QuasiHarmonic:
    """What a crystal does at temperatures without pressure, per primitive cell.

    Attributes:
        temperatures: (n_t,), K.
        volume: (n_t,), Å³.
        thermal_expansion: (n_t,), 1/K, of the volume.
        bulk_modulus: (n_t,), GPa, at constant temperature.
        heat_capacity_p: (n_t,), J/K/mol, at constant pressure.
        gibbs: (n_t,), eV.
        gruneisen: (n_t,), α_V B V / C_V; NaN at 0 K.
    """

    temperatures: np.ndarray
    volume: np.ndarray
    thermal_expansion: np.ndarray
    bulk_modulus: np.ndarray
    heat_capacity_p: np.ndarray
    gibbs: np.ndarray
    gruneisen: np.ndarray

    def at(self, temperature: float) -> dict[str, float]:
        """All of them at one of the temperatures."""
        place = int(np.argmin(np.abs(self.temperatures - temperature)))
        return {field.name: float(getattr(self, field.name)[place]) for field in _ALL}


_ALL: Final = fields(QuasiHarmonic)


def fit_volumes(
    points: Sequence[VolumePoint],
    options: QhaOptions,
    *,
    first: float,
    temperature: float,
) -> tuple[QuasiHarmonic, str]:
    """Minimise the free energy over volumes at each temperature, as phonopy does.

    It ends where the volume at the next temperature would lie outside of the volumes.

    Args:
        points: of one crystal; those with a problem do not count.
        options: equation of state.
        first: lowest temperature that is asked for, K.
        temperature: that must be reached, K.

    Returns:
        The curves, and why they end before the last temperature; empty where they
        do not.

    Raises:
        QuasiHarmonicError: too few volumes, no equation of state fits, or the crystal
            has a volume beyond them at this temperature already.

    Source: ``phonopy.qha.core.QHA`` (A. Togo et al., Phys. Rev. B 81, 174301 (2010)).
    """
    used = _usable(points)
    volumes = np.array([point.volume for point in used])
    energies = np.array([point.energy for point in used])
    temperatures = used[0].temperatures
    free_energy, entropy, heat_capacity = (
        np.stack([getattr(point, name) for point in used], axis=1)
        for name in ("free_energy", "entropy", "heat_capacity")
    )
    n, why = _reach(volumes, energies, temperatures, free_energy, options)
    # Where differences end, phonopy leaves the last out.
    if n < 3 or temperatures[n - 2] < temperature:
        raise QuasiHarmonicError(
            f"at {temperatures[min(n, len(temperatures) - 1)]:g} K {why}, and "
            f"properties at {temperature:g} K cannot be given. Choose others with "
            "qha.volume_range."
        )
    found = QHA(
        volumes,
        energies,
        temperatures[:n],
        heat_capacity[:n],
        entropy[:n],
        free_energy[:n],
        eos=options.equation_of_state,
    )
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # At 0 K all heat capacities are 0, and so are polynomials through them.
        warnings.filterwarnings("ignore", category=np.exceptions.RankWarning)
        found.run()
    end = f"at {temperatures[n]:g} K {why}" if n < len(temperatures) else ""
    return _curves(found, temperatures[: n - 1], first), end


def _usable(points: Sequence[VolumePoint]) -> list[VolumePoint]:
    """Points without a problem, by volume."""
    used = sorted((p for p in points if not p.problem), key=lambda p: p.volume)
    if len(used) < MIN_VOLUMES:
        reasons = "; ".join(f"{p.ratio:g}: {p.problem}" for p in points if p.problem)
        raise QuasiHarmonicError(
            f"{len(used)} of {len(points)} volumes are left and {MIN_VOLUMES} are "
            f"needed ({reasons}). Choose other ones with qha.volume_range."
        )
    return used


def _curves(found: QHA, temperatures: np.ndarray, first: float) -> QuasiHarmonic:
    """What phonopy found from the first temperature that is asked for."""
    # That of the first is no difference; 0, as phonopy gives it, is right at 0 K only.
    is_difference = (np.arange(len(temperatures)) > 0) | (temperatures == 0)
    asked = (temperatures >= first) & is_difference
    values = {
        "temperatures": temperatures,
        "volume": found.volume_temperature,
        "thermal_expansion": found.thermal_expansion,
        "bulk_modulus": found.bulk_modulus_temperature,
        "heat_capacity_p": found.heat_capacity_P_polyfit,
        "gibbs": found.gibbs_temperature,
        "gruneisen": np.where(temperatures > 0, found.gruneisen_temperature, np.nan),
    }
    return QuasiHarmonic(**{name: np.array(v)[asked] for name, v in values.items()})


def _reach(
    volumes: np.ndarray,
    energies: np.ndarray,
    temperatures: np.ndarray,
    free_energy: np.ndarray,
    options: QhaOptions,
) -> tuple[int, str]:
    """How many temperatures have a volume within the volumes, and why no more do."""
    eos = get_eos(options.equation_of_state)
    total = energies + free_energy / get_physical_units().EvTokJmol
    for n, values in enumerate(total):
        try:
            _, bulk, _, volume = fit_to_eos(volumes, values, eos)
        except (RuntimeError, TypeError) as error:
            return n, f"no equation of state fits ({error})"
        if not volumes[0] <= volume <= volumes[-1]:
            return n, (
                f"the volume, {volume:.6g} Å³, lies outside of those from "
                f"{volumes[0]:.6g} to {volumes[-1]:.6g} Å³"
            )
        if not bulk > 0:
            return n, "the bulk modulus is not positive"
    return len(temperatures), "temperatures end before"
