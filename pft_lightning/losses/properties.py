"""The loss terms on what follows from frequencies, and how they enter a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ShapeError
from pft_lightning.losses.terms import LossKind, TermSum, row_residuals, term_count
from pft_lightning.physics.assignment import assign_by_overlap
from pft_lightning.physics.vibrations import Spectrum


Property = Literal[
    "frequencies",
    "free_energy",
    "entropy",
    "heat_capacity",
    "dos",
    "element_dos",
    "frequency_moments",
    "omega_max",
]

# How modes of a potential are paired with those of force constants.
Assignment = Literal["order", "overlap"]

# Those that values are measured of.
MEASURABLE: Final[tuple[Property, ...]] = (
    "frequencies",
    "free_energy",
    "entropy",
    "heat_capacity",
    "dos",
)

# Of mean absolute errors, by property.
UNITS: Final[dict[Property, str]] = {
    "frequencies": "THz",
    "free_energy": "kJ/mol",
    "entropy": "J/K/mol",
    "heat_capacity": "J/K/mol",
    "dos": "",
    "element_dos": "",
    "frequency_moments": "THz",
    "omega_max": "THz",
}

# Orders k of the moments <ω^k>^(1/k): soft modes, the mean, stiff modes.
_ORDERS: Final = (-1.0, 1.0, 2.0, 4.0)

# Points of a density of states per standard deviation of its smearing, and how far it
# reaches beyond the last mode, in these.
_POINTS_PER_SMEARING: Final = 2
_MARGIN: Final = 4


def metric_of(name: Property, prefix: str = "property_") -> str:
    """Name of the mean absolute error of a property in a validation."""
    return f"{prefix}{name}_mae"


@dataclass(frozen=True, slots=True)
class PropertyErrors:
    """How spectra are compared.

    Attributes:
        temperatures: of the thermal properties, K.
        smearing: of densities of states, THz.
        kind: of the losses.
        huber_delta: where Huber losses turn linear, in the unit of the property.
        assignment: of frequencies to those of the reference: in their order at each
            q-point, or by the overlap of modes.
    """

    temperatures: tuple[float, ...] = (300.0,)
    smearing: float = 0.3
    kind: LossKind = "mae"
    huber_delta: float = 0.01
    assignment: Assignment = "order"

    def loss(
        self, name: Property, model: Spectrum, reference: Spectrum
    ) -> torch.Tensor:
        """Compare one property.

        Args:
            name: of the property.
            model: of the potential.
            reference: on the same q-points.

        Returns:
            Scalar. ``frequencies``: THz, a mean over modes, paired by ``assignment``;
            ``free_energy``: kJ/mol of primitive cells; ``entropy`` and
            ``heat_capacity``: J/K/mol, means over temperatures; ``dos``: with ``mae``
            the share of modes that would have to move, from 0 to 1; ``element_dos``:
            likewise, of the motion of each element, so that modes in their places that
            move other atoms count; ``frequency_moments``: THz, a mean over orders;
            ``omega_max``: THz.
        """
        if name == "frequencies":
            frequencies = model.frequencies()
            if self.assignment == "overlap":
                frequencies = frequencies.gather(1, assign_by_overlap(model, reference))
            difference = frequencies - reference.frequencies()
            per_mode = row_residuals(
                difference.reshape(-1, 1), self.kind, self.huber_delta
            )
            shares = reference.weights / reference.weights.sum()
            return (shares.flatten() * per_mode).sum()
        if name in ("dos", "element_dos"):
            # A sum, so that points without any mode do not matter.
            difference = self._dos_difference(name, model, reference)
            return row_residuals(difference, self.kind, self.huber_delta).sum()
        difference = self._values(name, model) - self._values(name, reference)
        return row_residuals(difference[None, :, None], self.kind, self.huber_delta)[0]

    def _values(self, name: Property, spectrum: Spectrum) -> torch.Tensor:
        if name == "omega_max":
            return spectrum.max_frequency()
        if name == "frequency_moments":
            return spectrum.moments(spectrum.squares.new_tensor(_ORDERS))
        temperatures = spectrum.squares.new_tensor(self.temperatures)
        found: torch.Tensor = getattr(spectrum, name)(temperatures)
        return found

    def _dos_difference(
        self, name: Property, model: Spectrum, reference: Spectrum
    ) -> torch.Tensor:
        """(n, 1), whose absolute values sum to the share of modes that would move."""
        both = torch.cat(
            [s.frequencies().detach().flatten() for s in (model, reference)]
        )
        pitch = self.smearing / _POINTS_PER_SMEARING
        margin = _MARGIN * self.smearing
        # Multiples of the pitch: the same points whatever the model.
        first = math.floor((float(both.min()) - margin) / pitch)
        last = math.ceil((float(both.max()) + margin) / pitch)
        points = torch.arange(first, last + 1, dtype=both.dtype) * pitch
        ours, theirs = (
            s.density_of_states(points, self.smearing)
            if name == "dos"
            else s.element_densities(points, self.smearing)
            for s in (model, reference)
        )
        scale = pitch / (2 * reference.weights.sum())
        return ((ours - theirs) * scale).reshape(-1, 1)


@dataclass(frozen=True, slots=True)
class PropertyTarget:
    """Losses of a batch that are known, and directions that give their gradient.

    Attributes:
        tangents: (n_atoms, n_probes, 3).
        cotangents: (n_atoms, n_probes, 3), what products with the tangents are
            multiplied with. The mean over probes is an unbiased estimate of the
            gradient of all weighted terms of a structure together.
        losses: (n_structures,) by name.
        known: (n_structures,), bool, by name: it was computed of the structure. Of two
            names all structures have both, or none has.
        weights: of the terms in the total loss.
    """

    tangents: torch.Tensor
    cotangents: torch.Tensor
    losses: Mapping[Property, torch.Tensor]
    known: Mapping[Property, torch.Tensor]
    weights: Mapping[Property, float]

    @property
    def wanted_tangents(self) -> torch.Tensor | None:
        """Tangents to differentiate along; None where no structure was computed."""
        known = torch.stack(list(self.known.values()))
        return self.tangents if bool(known.any()) else None

    def terms(self, hvp: torch.Tensor | None, batch: Batch) -> dict[Property, TermSum]:
        """Sum the losses over the local batch.

        Args:
            hvp: (n_atoms, n_probes, 3), of the model; None where ``wanted_tangents``
                is.
            batch: Neutral batch.

        Returns:
            By name. The first one that a structure has carries the gradient of all of
            the structure.

        Raises:
            ShapeError: ``hvp`` has another shape than the tangents.
        """
        masks = self._masks(batch)
        terms = {
            name: TermSum((losses * masks[name]).sum(), term_count(masks[name]))
            for name, losses in self.losses.items()
        }
        if hvp is None:
            return terms
        if hvp.shape != self.tangents.shape:
            raise ShapeError(
                f"hvp has shape {tuple(hvp.shape)}; the tangents have "
                f"{tuple(self.tangents.shape)}."
            )
        per_atom = (self.cotangents.to(hvp) * hvp).sum(dim=(1, 2)) / hvp.shape[1]
        sampled = hvp.new_zeros(batch.num_graphs).index_add(
            0, batch[keys.STRUCTURE_INDEX], per_atom
        )
        free = torch.ones_like(next(iter(masks.values())))
        for name, mask in masks.items():
            # The gradient of all that a structure has is carried once.
            part = (sampled * (mask & free)).sum()
            free = free & ~mask
            # Zero, with a gradient.
            carried = (part - part.detach()) / self.weights[name]
            terms[name] = TermSum(terms[name].total + carried, terms[name].count)
        return terms

    def counts(self, batch: Batch) -> dict[Property, torch.Tensor]:
        """Give the counts of the terms: structures, whatever the reduction."""
        return {name: term_count(mask) for name, mask in self._masks(batch).items()}

    def _masks(self, batch: Batch) -> dict[Property, torch.Tensor]:
        counted: torch.Tensor = batch[keys.COUNTED]
        return {name: counted & known for name, known in self.known.items()}

    def part(self, structures: slice, atoms: slice) -> PropertyTarget:
        """Give that of some of the structures."""
        return PropertyTarget(
            self.tangents[atoms],
            self.cotangents[atoms],
            {name: losses[structures] for name, losses in self.losses.items()},
            {name: known[structures] for name, known in self.known.items()},
            self.weights,
        )
