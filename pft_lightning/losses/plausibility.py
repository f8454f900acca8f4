"""Labels that a base model finds absurd: other units, signs or zeros of energy."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.losses.energy_force_stress import QUANTITIES, residuals
from pft_lightning.types import Derivatives
from pft_lightning.units import GPA_PER_EV_PER_CUBIC_ANGSTROM


# Median error that no base model has on data of its own kind: of the energy, eV/atom;
# of the root mean square of forces, eV/Å, and stresses, eV/Å³ (160 GPa).
_ABSURD: Final = {"energy": 5.0, "forces": 20.0, "stress": 1.0}

# Root mean squares below which predictions say nothing about a factor, eV/Å, eV/Å³.
_TELLING: Final = {"forces": 0.05, "stress": 1e-3}

# Labels that are a multiple of the predictions have a correlation near 1 with them, and
# a factor that no error of a model reaches. Of few numbers some agree by chance.
_CORRELATION: Final = 0.8
_FACTOR: Final = 10.0
_MIN_NUMBERS: Final = 30

_UNITS: Final = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}

# Factors from eV/Å and eV/Å³ to what files are written in by mistake.
_OTHER_UNITS: Final[dict[str, dict[str, float]]] = {
    "forces": {
        "Ry/bohr": 1 / 25.711,
        "hartree/bohr": 1 / 51.422,
        "kcal/mol/Å": 23.061,
        "kJ/mol/Å": 96.485,
        "kJ/mol/nm": 964.85,
        "meV/Å": 1000.0,
    },
    "stress": {
        "GPa": GPA_PER_EV_PER_CUBIC_ANGSTROM,
        "kbar": 10 * GPA_PER_EV_PER_CUBIC_ANGSTROM,
        "hartree/bohr³": 1 / 183.63,
        "Ry/bohr³": 1 / 91.816,
    },
}
# Largest logarithm of the error of a factor that an imperfect model gives.
_NEAR: Final = 0.4


def doubtful_labels(
    derivatives: Derivatives,
    batch: Batch,
    quantities: Container[str] = QUANTITIES,
    *,
    weight: str | None = None,
) -> list[str]:
    """Say which labels of a batch are absurd in the eyes of a model, and why.

    Meant for a base model before it is trained: its errors on labels in the right
    units are far below the limits here.

    Args:
        derivatives: of the model on the batch; forces and stress may be missing.
        batch: neutral batch with references.
        quantities: that are looked at.
        weight: option that leaves a quantity out where it is 0, with ``{}`` in place of
            its name; None where there is no such option.

    Returns:
        One sentence per quantity: the number, the likely cause, the remedy.
    """
    found = []
    for quantity, (difference, mask) in residuals(derivatives, batch).items():
        known = mask[batch[keys.STRUCTURE_INDEX]] if quantity == "forces" else mask
        if quantity not in quantities or not known.any():
            continue
        errors = difference[known].detach().double()
        option = weight and weight.format(quantity)
        remedy = f", or leave the {quantity} out with {option}=0" if option else ""
        if quantity == "energy":
            reason = _doubtful_energies(errors, remedy)
        else:
            predicted = getattr(derivatives, quantity)[known].detach().double()
            labels = predicted - errors
            reason = _doubtful_vectors(quantity, predicted, labels, remedy)
        if reason is not None:
            found.append(reason)
    return found


def _doubtful_energies(errors: torch.Tensor, remedy: str) -> str | None:
    median = float(errors.abs().median())
    if median < _ABSURD["energy"]:
        return None
    return (
        f"half of the labels of energy differ by {median:.4g} eV/atom or more from "
        "what the model gives. Are they in eV, and of the method that the model was "
        "trained on (all-electron and cohesive energies have other zeros)? Subtract "
        f"the energies of free atoms of one method and add those of the other{remedy}."
    )


def _doubtful_vectors(
    quantity: str, predicted: torch.Tensor, labels: torch.Tensor, remedy: str
) -> str | None:
    predicted, labels = predicted.flatten(), labels.flatten()
    size, error = _rms(predicted), _rms(predicted - labels)
    unit = _UNITS[quantity]
    if len(labels) >= _MIN_NUMBERS and size > _TELLING[quantity] and labels.any():
        factor = float(labels.norm() / predicted.norm())
        correlation = float(predicted @ labels / (labels.norm() * predicted.norm()))
        if abs(correlation) > _CORRELATION and (
            correlation < 0 or not 1 / _FACTOR < factor < _FACTOR
        ):
            sign = "-" if correlation < 0 else ""
            return (
                f"the labels of {quantity} are {sign}{factor:.3g} times what the model "
                f"gives. {_likely_cause(quantity, factor, correlation < 0)} They are "
                f"read as {unit}, in ASE's sign: convert the file."
            )
    if error < _ABSURD[quantity]:
        return None
    return (
        f"the labels of {quantity} differ by {error:.3g} {unit} (root mean square) "
        f"from what the model gives, which is {size:.3g}. Are they in {unit}, and of "
        f"these structures? Convert the file{remedy}."
    )


def _likely_cause(quantity: str, factor: float, is_flipped: bool) -> str:
    distances = {
        unit: abs(math.log(factor / size))
        for unit, size in _OTHER_UNITS[quantity].items()
    }
    nearest = min(distances, key=distances.__getitem__)
    causes = [f"in {nearest}"] if distances[nearest] < _NEAR else []
    if is_flipped:
        causes.append("with the opposite sign (a gradient, or a pressure)")
    return f"Are they {' and '.join(causes)}?" if causes else "Other units?"


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
