"""Thermal conductivities of some crystals while a potential is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import lightning
from lightning.pytorch.utilities import rank_zero_warn
from pydantic import Field

from pft_lightning.callbacks.watching import (
    ValidationEvaluation,
    check_least,
    choose_materials,
)
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.third_order import check_phono3py
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.conductivity.protocol import (
    CONDUCTIVITY_PROTOCOLS,
    ConductivityProtocol,
    get_protocol,
)
from pft_lightning.evaluation.conductivity.reference import read_conductivities
from pft_lightning.evaluation.conductivity.runner import (
    ConductivityEvaluation,
    evaluate_conductivity,
)
from pft_lightning.evaluation.conductivity.structures import (
    ConductivityOptions,
    list_crystals,
)
from pft_lightning.evaluation.conductivity.totals import (
    COMPUTED,
    KAPPA,
    OUTCOME,
    REASON,
    SRE,
    SRME,
)
from pft_lightning.evaluation.folder import NAME
from pft_lightning.option_types import As, Count, NAtoms, Paths, Unit, Words
from pft_lightning.training.module import PhononFineTuning


_PREFIX: Final = "conductivity/"
_OPTION: Final = "conductivity_validation"
_LABEL: Final = "model"
_FOLDER: Final = "conductivity"

_Names = Annotated[list[str] | None, Words("names of crystals in a list, or null")]
_File = Annotated[str | None, Words("a path, or null")]
_Protocol = Annotated[str, Words(f"one of {', '.join(CONDUCTIVITY_PROTOCOLS)}")]


class ConductivityValidation(ValidationEvaluation[ConductivityEvaluation]):
    """Compute thermal conductivities of some crystals in validations.

    ``conductivity/kappa_NAME`` (W/m/K) of each crystal is logged and, with a
    reference, the means ``conductivity/srme`` and ``conductivity/sre`` of
    ``pft-evaluate task=conductivity``. A crystal on which the potential fails is named
    in a warning; its score is the worst, 2, and its κ NaN. The evaluation of the last
    validation is left in the folder ``conductivity`` of the run.

    When it is due: see ``watching.ValidationEvaluation``. Everything is computed in
    float64 on a copy. The processes of a distributed training share the crystals. A
    cubic crystal takes minutes on a CPU core: watch one or two, and not every
    validation.

    Args:
        structures: crystals as ``pft-evaluate task=conductivity`` takes them.
        reference: table of DFT mode by mode; null scores nothing.
        n: how many of the crystals are taken, at equal distances in their list; null
            takes all.
        names: names of the crystals to take instead, as in ``per_material.csv``.
        every_n_validations: validations from one of these to the next.
        protocol: what is computed: ``matbench`` or ``k_srme``; in Python a
            ``ConductivityProtocol``, too.
        max_atoms: atoms of one pass; what bounds memory.

    Raises:
        BackendUnavailableError: phono3py is not there, or too old.
        ConfigError: a value makes no sense.
    """

    def __init__(
        self,
        structures: Annotated[Spec | None, As(Paths | None)],
        *,
        reference: Annotated[str | Path | None, As(_File)] = None,
        n: Annotated[int | None, Field(ge=1), Unit("crystals")] = 2,
        names: Annotated[Sequence[str] | None, As(_Names)] = None,
        every_n_validations: Count = 1,
        protocol: Annotated[str | ConductivityProtocol, As(_Protocol)] = "matbench",
        max_atoms: NAtoms = 256,
    ) -> None:
        check_phono3py("conductivities")
        if structures is None:
            raise ConfigError(
                "ConductivityValidation has no crystals: give "
                "callbacks.conductivity_validation.structures."
            )
        super().__init__(_OPTION, every_n_validations, [_PREFIX + SRME])
        if n is not None:
            check_least(_OPTION, "n", n, 1)
        self._protocol = get_protocol(protocol)
        crystals = list_crystals(structures, ConductivityOptions(), PhononReadOptions())
        self._crystals = choose_materials(crystals, n, names, _OPTION)
        self._reference = reference
        self._max_atoms = max_atoms

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Read crystals and reference once before the first step, to refuse them now.

        Raises:
            ConfigError: the module is another one.
            DataFormatError: a crystal or the reference cannot be used.
        """
        super().setup(trainer, pl_module, stage)
        for crystal in self._crystals:
            crystal.read()
        if self._reference is not None:
            read_conductivities(self._reference, self._protocol.temperature)

    def evaluate(
        self, trainer: lightning.Trainer, pl_module: PhononFineTuning
    ) -> ConductivityEvaluation:
        """Compute the conductivities of the crystals."""
        return evaluate_conductivity(
            {_LABEL: pl_module.model},
            self._crystals,
            Path(trainer.default_root_dir) / _FOLDER,
            reference=self._reference,
            protocol=self._protocol,
            max_atoms=self._max_atoms,
            progress=False,
        )

    def totals_of(self, found: ConductivityEvaluation) -> dict[str, float]:
        """Scores and conductivities; those that failed are named in warnings."""
        totals = {}
        for row in found.rows:
            kappa = math.nan
            if row[OUTCOME] == COMPUTED:
                kappa = row[KAPPA]
            else:
                rank_zero_warn(
                    f"ConductivityValidation: {row[NAME]} has no conductivity: "
                    f"{row[OUTCOME]}, {row[REASON]}"
                )
            totals[f"{KAPPA}_{row[NAME]}"] = kappa
        summary = found.summary["models"][_LABEL]
        for score in (SRME, SRE):
            if summary[score]["n"]:
                totals[score] = summary[score]["mean"]
        return {_PREFIX + name: value for name, value in totals.items()}
