"""Phonons and thermal properties against DFT while a potential is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import lightning
import numpy as np
from ase.data import chemical_symbols
from lightning.pytorch.utilities import rank_zero_warn
from pydantic import Field

from pft_lightning.backends.base import EnergyModel
from pft_lightning.callbacks.wandb_dashboard import log_phonons, wants_figures
from pft_lightning.callbacks.watching import (
    ValidationEvaluation,
    check_least,
    choose_materials,
)
from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.errors import ConfigError, PFTError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.folder import (
    ENTROPY_ERROR,
    ERRORS,
    FAILED,
    FREQUENCY_RATIO,
    IMAGINARY,
    MESH_FREQUENCY_MAE,
    MODEL_UNSTABLE,
    MOLECULAR,
    REFERENCE_UNSTABLE,
    STATUS,
)
from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol, get_protocol
from pft_lightning.evaluation.reference import (
    Material,
    Phonons,
    Reference,
    elements_of,
    list_materials,
)
from pft_lightning.evaluation.runner import Evaluation, evaluate_phonons
from pft_lightning.option_types import As, Count, NAtoms, Natural, Paths, Unit, Words
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.types import Engine, PhononProperties


_PREFIX = "phonon/"
_TOTALS = (*ERRORS, FREQUENCY_RATIO)
_PROGRESS_BAR = (MESH_FREQUENCY_MAE, ENTROPY_ERROR)
_LABEL = "model"
_OPTION = "phonon_validation"


_Names = Annotated[list[str] | None, Words("names of materials in a list, or null")]
_Mesh = Annotated[
    float | list[int] | None, Words("a length in Å, or three whole numbers")
]
_Protocol = Annotated[str, Words(f"one of {', '.join(PROTOCOLS)}")]


class PhononValidation(ValidationEvaluation[Evaluation]):
    """Compute the metrics of ``pft.evaluate_phonons`` in validations.

    Means over the materials are logged as ``phonon/mesh_frequency_mae`` (THz),
    ``phonon/entropy_error`` (J/K/mol) and so on: names and units of
    ``per_material.csv``, for progress bar, loggers, checkpoints and early stopping.
    ``phonon/instability_error`` is the share of materials that are called stable and
    are not, or the reverse; ``phonon/imaginary_missed`` and ``.../imaginary_spurious``
    are numbers of modes at the q-points of the supercells, imaginary in DFT alone or in
    the potential alone. A material that the potential fails on is named in a
    warning and turns the means into NaN: a mean over the others would make a diverged
    potential look good. Molecules have ``phonon/frequency_mae_cm1`` and
    ``phonon/zero_point_energy_error`` too.

    When it is due: see ``watching.ValidationEvaluation``. Everything is computed in
    float64 on a copy. The processes of a distributed training share the materials.

    Args:
        phonons: file, folder, glob, store, list of them, or ``Phonopy`` objects with
            force constants. All processes read them.
        n: how many of the materials are taken, at equal distances in their list; null
            takes all.
        names: names of the materials to take instead, as in ``per_material.csv``.
        every_n_validations: validations from one of these to the next.
        protocol: what is computed: ``dft_cell``, ``mdr``, ``mdr_analytic`` or
            ``ml_peg``; in Python a ``Protocol``, too.
        mesh: dense mesh of q-points in place of the protocol's, a length in Å or
            three numbers.
        options: how phonon files are read.
        max_atoms: atoms of one pass; what bounds memory.
        engine: how Hessian-vector products are taken; None chooses by device.
        n_figures: band structures that W&B gets, of the first materials.

    Raises:
        ConfigError: a value makes no sense.
    """

    def __init__(
        self,
        phonons: Annotated[Phonons | None, As(Paths | None)],
        *,
        n: Annotated[int | None, Field(ge=1), Unit("materials")] = 8,
        names: Annotated[Sequence[str] | None, As(_Names)] = None,
        every_n_validations: Count = 1,
        protocol: Annotated[str | Protocol, As(_Protocol)] = "dft_cell",
        mesh: Annotated[float | Sequence[int] | None, As(_Mesh)] = None,
        options: Annotated[PhononReadOptions | None, As(dict[str, Any] | None)] = None,
        max_atoms: NAtoms = 256,
        engine: Engine | None = None,
        n_figures: Natural = 4,
    ) -> None:
        if phonons is None:
            raise ConfigError(
                "PhononValidation has no materials to compare with: give "
                "data.phonons.val or callbacks.phonon_validation.phonons."
            )
        super().__init__(
            _OPTION, every_n_validations, [_PREFIX + name for name in _PROGRESS_BAR]
        )
        if n is not None:
            check_least(_OPTION, "n", n, 1)
        check_least(_OPTION, "n_figures", n_figures, 0)
        self.n_figures = n_figures
        self._phonons = phonons
        self._n = n
        self._names = names
        self._protocol = get_protocol(protocol)
        if mesh is not None:
            numbers = mesh if isinstance(mesh, (int, float)) else tuple(mesh)
            self._protocol = dataclasses.replace(self._protocol, mesh=numbers)  # type: ignore[arg-type]
        self._options = options
        self._max_atoms = max_atoms
        self._engine = engine
        self._references: dict[str, Reference] | None = None

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Read the materials once, before the first step.

        Raises:
            ConfigError: the module is another one, or no material can be used.
        """
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, PhononFineTuning)
        if self._references is None:
            materials = list_materials(self._phonons, self._options)
            chosen = choose_materials(materials, self._n, self._names, _OPTION)
            self._references = _read(chosen, pl_module.model)

    def evaluate(
        self, trainer: lightning.Trainer, pl_module: PhononFineTuning
    ) -> Evaluation:
        """Compare phonons of the materials with DFT's."""
        assert self._references is not None
        protocol = self._protocol
        if not (self.n_figures and wants_figures(trainer.loggers)):
            protocol = dataclasses.replace(protocol, band_points=0)
        return evaluate_phonons(
            {_LABEL: pl_module.model},
            self._references,
            protocol=protocol,
            max_atoms=self._max_atoms,
            engine=self._engine,
            progress=False,
        )

    def totals_of(self, found: Evaluation) -> dict[str, float]:
        """Means over the materials; those that failed are named in warnings."""
        _name_failures(found)
        assert self._references is not None
        kinds = [isinstance(known, Molecule) for known in self._references.values()]
        return _totals(found, n_molecules=sum(kinds))

    def show(self, trainer: lightning.Trainer, found: Evaluation) -> None:
        """Give W&B the materials, and bands of some."""
        if wants_figures(trainer.loggers):
            shown = self._shown(found)
            for logger in trainer.loggers:
                log_phonons(logger, found.rows, shown, trainer.global_step)

    def _shown(self, evaluation: Evaluation) -> dict[str, dict[str, PhononProperties]]:
        """Properties that are drawn, on every process, whichever computed them."""
        assert self._references is not None
        names = list(self._references)[: self.n_figures]
        # Force constants are not drawn, and large.
        mine = {
            name: {
                label: dataclasses.replace(properties, force_constants=None)
                for label, properties in evaluation.properties[name].items()
            }
            for name in names
            if name in evaluation.properties
        }
        shares = {k: v for share in processes.gather(mine) for k, v in share.items()}
        return {name: shares[name] for name in names if name in shares}


def _read(materials: Sequence[Material], model: EnergyModel) -> dict[str, Reference]:
    """Read references; those that can never be compared are named and left out."""
    references: dict[str, Reference] = {}
    left_out = {}
    for material in materials:
        try:
            phonon = material.read()
        except PFTError as error:
            left_out[material.name] = str(error)
            continue
        numbers = elements_of(phonon)
        if unknown := sorted(numbers - set(model.atomic_numbers)):
            elements = ", ".join(chemical_symbols[number] for number in unknown)
            left_out[material.name] = f"the potential has no parameters for {elements}"
            continue
        references[material.name] = phonon
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    if not references:
        raise ConfigError(
            f"PhononValidation can use none of {len(materials)} materials ({reasons}). "
            "Give it others with phonons= and names=."
        )
    if left_out:
        rank_zero_warn(
            f"PhononValidation leaves out {len(left_out)} of {len(materials)} "
            f"materials: {reasons}."
        )
    return references


def _totals(evaluation: Evaluation, *, n_molecules: int) -> dict[str, float]:
    """Means over the materials; NaN where one of them has no finite number.

    Those that molecules alone have are means over these.
    """
    summary = evaluation.summary["models"][_LABEL]
    expected = dict.fromkeys(_TOTALS, len(evaluation.rows))
    if n_molecules:
        expected |= dict.fromkeys(MOLECULAR, n_molecules)
    totals = {
        name: summary[name]["mean"] if summary[name]["n"] == count else math.nan
        for name, count in expected.items()
    }
    wrong = [
        math.nan
        if row[STATUS] == FAILED
        else float(row[REFERENCE_UNSTABLE] != row[MODEL_UNSTABLE])
        for row in evaluation.rows
    ]
    totals["instability_error"] = float(np.mean(wrong))
    imaginary = summary[IMAGINARY]
    whole = imaginary["n"] == len(evaluation.rows)
    for name, of in (("missed", "reference"), ("spurious", "model")):
        number = imaginary[of] - imaginary["both"]
        totals[f"imaginary_{name}"] = float(number) if whole else math.nan
    return {_PREFIX + name: value for name, value in totals.items()}


def _name_failures(evaluation: Evaluation) -> None:
    for failure in evaluation.summary["failures"]:
        rank_zero_warn(
            f"PhononValidation: {failure['name']} failed: {failure['error']} The means "
            "over the materials are NaN."
        )
