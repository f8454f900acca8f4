"""The row of a model on a crystal: what it is, what came of it, and its scores."""

from __future__ import annotations

import warnings
from typing import Final

from pft_lightning.errors import DataFormatError, ShapeError
from pft_lightning.evaluation.conductivity.adapter import Transport
from pft_lightning.evaluation.conductivity.cells import (
    ConductivityCells,
    element_counts,
    space_group,
)
from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.conductivity.reference import (
    ReferenceCrystal,
    References,
    find_crystal,
    reduce_formula,
)
from pft_lightning.evaluation.conductivity.score import (
    FAILED_SCORE,
    Score,
    compute_score,
)
from pft_lightning.evaluation.conductivity.stages import Outcome, read_transport
from pft_lightning.evaluation.conductivity.totals import (
    COMPUTED,
    FAILED,
    KAPPA,
    OUTCOME,
    REASON,
    REFERENCE_KAPPA,
    REFERENCE_NAME,
    SRD,
    SRE,
    SRME,
    STRUCTURE_TYPE,
)
from pft_lightning.evaluation.conductivity.totals import structure_type as name_type
from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MAX_FREQUENCY,
    MIN_FREQUENCY,
    MODEL,
    N_ATOMS,
    N_PRIMITIVE,
    NAME,
    RELAX_STEPS,
    SECONDS,
    STATUS,
    VOLUME_RATIO,
    EvaluationFolder,
    Row,
)


PARTICLE: Final = "kappa_particle"
COHERENCE: Final = "kappa_coherence"
SPACE_GROUP: Final = "space_group"
RELAXED_SPACE_GROUP: Final = "relaxed_space_group"
CONVERGED: Final = "converged"
N_SECOND: Final = "fc2_displacements"
N_THIRD: Final = "fc3_displacements"
TRANSPORT_KEY: Final = "transport_key"  # of the file of the conductivity, no column

COLUMNS: Final = (
    *(NAME, FORMULA, STRUCTURE_TYPE, N_ATOMS, N_PRIMITIVE, MODEL),
    *(STATUS, ERROR, OUTCOME, REASON),
    *(SRME, SRE, SRD, KAPPA, REFERENCE_KAPPA, REFERENCE_NAME, PARTICLE, COHERENCE),
    *(MIN_FREQUENCY, MAX_FREQUENCY, SPACE_GROUP, RELAXED_SPACE_GROUP),
    *(VOLUME_RATIO, RELAX_STEPS, CONVERGED, N_SECOND, N_THIRD, SECONDS),
)


def identify(
    name: str,
    cells: ConductivityCells,
    found: ReferenceCrystal | None,
    protocol: ConductivityProtocol,
) -> Row:
    """Columns that say which crystal a row is of.

    Args:
        name: of the material.
        cells: the crystal.
        found: the same of the reference.
        protocol: gives the tolerance of the symmetry search.
    """
    number = space_group(cells.atoms, protocol.symprec)
    return {
        NAME: name,
        FORMULA: cells.atoms.get_chemical_formula("metal", empirical=True),
        STRUCTURE_TYPE: name_type(number, element_counts(cells.atoms)),
        N_ATOMS: len(cells.atoms),
        SPACE_GROUP: number,
        REFERENCE_NAME: "" if found is None else found.name,
    }


def find_reference(
    references: References | None,
    name: str,
    cells: ConductivityCells | None,
    protocol: ConductivityProtocol,
) -> ReferenceCrystal | None:
    """Find a crystal in the reference, by names or else by formula and symmetry.

    Args:
        references: None where nothing is compared.
        name: of the material.
        cells: None where it cannot be read.
        protocol: gives the tolerance of the symmetry search.
    """
    if references is None:
        return None
    if cells is None:
        return references.get(name)
    return find_crystal(
        references,
        (*cells.names, name),
        reduce_formula(cells.atoms.get_chemical_formula()),
        [
            space_group(cells.atoms, tolerance)
            for tolerance in (protocol.symprec, protocol.relax_symprec)
        ],
    )


def choose_mesh(
    cells: ConductivityCells,
    found: ReferenceCrystal | None,
    protocol: ConductivityProtocol,
) -> tuple[int, int, int] | float:
    """Mesh of a crystal: its own, or else that of the reference, or the protocol.

    Raises:
        DataFormatError: its own is not that of the reference.
    """
    theirs = None if found is None else found.mesh
    if cells.mesh is not None and theirs is not None and cells.mesh != theirs:
        assert found is not None
        raise DataFormatError(
            f"the mesh of q-points is {list(cells.mesh)}, and that of {found.name} in "
            f"the reference is {list(theirs)}: modes on other points cannot be "
            "compared. Correct the mesh, or leave out the reference."
        )
    return cells.mesh or theirs or protocol.mesh


def transport_of(row: Row, folder: EvaluationFolder) -> Transport | None:
    """Read the conductivity that a row speaks of; None where it has none.

    Args:
        row: of a material and model.
        folder: of the evaluation.
    """
    if row[OUTCOME] != COMPUTED:
        return None
    place = folder.model_folder(row[NAME], row[MODEL])
    return read_transport(place, row.get(TRANSPORT_KEY, ""))


def columns_of(outcome: Outcome) -> Row:
    """Columns with what came of a crystal."""
    relaxed, transport = outcome.relaxed, outcome.transport
    row: Row = {
        OUTCOME: outcome.kind,
        REASON: outcome.reason,
        N_PRIMITIVE: outcome.n_primitive or None,
        RELAXED_SPACE_GROUP: relaxed.space_groups[1],
        VOLUME_RATIO: relaxed.volume_ratio,
        RELAX_STEPS: relaxed.n_steps,
        CONVERGED: relaxed.converged,
        N_SECOND: outcome.n_displaced[0],
        N_THIRD: outcome.n_displaced[1],
    }
    if outcome.frequencies is not None:
        row[MIN_FREQUENCY], row[MAX_FREQUENCY] = outcome.frequencies
    if transport is not None:
        row[TRANSPORT_KEY] = outcome.key
        row[KAPPA] = transport.conductivity.kappa
        row[PARTICLE] = float(transport.particle[:3].mean())
        row[COHERENCE] = float(transport.coherence[:3].mean())
    return row


def scores(outcome: Outcome, found: ReferenceCrystal | None) -> Row:
    """Columns with the scores of a crystal; None where there is nothing to compare.

    A reference of other q-points is no fault of the model: the conductivity stands, and
    the reason says why it has no score.
    """
    if found is None:
        return _columns(None, None)
    transport = outcome.transport
    conductivity = None if transport is None else transport.conductivity
    try:
        return _columns(compute_score(conductivity, found.conductivity), found)
    except ShapeError as error:
        reason = f"not compared with {found.name} of the reference: {error}"
        warnings.warn(reason, stacklevel=2)
        return {REASON: reason, **_columns(None, found)}


def failed_scores(found: ReferenceCrystal | None, reason: str) -> Row:
    """Columns of a crystal that could not be computed.

    Args:
        found: of the reference; without one there is nothing to score.
        reason: why.
    """
    score = None if found is None else FAILED_SCORE
    return {OUTCOME: FAILED, REASON: reason, **_columns(score, found)}


def _columns(score: Score | None, found: ReferenceCrystal | None) -> Row:
    return {
        SRME: None if score is None else score.srme,
        SRE: None if score is None else score.sre,
        SRD: None if score is None else score.srd,
        REFERENCE_KAPPA: None if found is None else found.conductivity.kappa,
    }
