"""The record of one material: what all its rows share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from pft_lightning.data.molecules import Molecule
from pft_lightning.evaluation.failures import failed_row, is_lasting
from pft_lightning.evaluation.folder import (
    ERROR,
    FORMULA,
    MODEL,
    N_ATOMS,
    N_PRIMITIVE,
    NAME,
    OK,
    STATUS,
    Record,
    Row,
)
from pft_lightning.evaluation.reference import Material, Reference


def identify(material: Material[Any], phonon: Reference) -> Row:
    """Columns that say which material a row is of."""
    if isinstance(phonon, Molecule):
        return {
            NAME: material.name,
            FORMULA: phonon.atoms.get_chemical_formula(),
            N_ATOMS: len(phonon.atoms),
            # It is its own primitive cell.
            N_PRIMITIVE: len(phonon.atoms),
        }
    return {
        NAME: material.name,
        FORMULA: phonon.unitcell.formula,
        N_ATOMS: len(phonon.supercell),
        N_PRIMITIVE: len(phonon.primitive),
    }


def unreadable_record(
    material: Material[Any],
    error: Exception,
    keys: Mapping[str, str],
    labels: Iterable[str],
) -> Record:
    """Record of a material that cannot be read, so that every model fails on it.

    Args:
        material: that was to be read.
        error: why it cannot be.
        keys: of each model, what its results depend on.
        labels: of the models.
    """
    failed = {NAME: material.name, **failed_row(error)}
    models = {label: {**failed, MODEL: label} for label in labels}
    return _record(material, failed, keys if is_lasting(error) else {}, models)


def readable_record(
    material: Material[Any],
    identity: Row,
    keys: Mapping[str, str],
    rows: Mapping[str, Row],
) -> Record:
    """Record of a material with the row of each model.

    Args:
        material: that was read.
        identity: as of ``identify``.
        keys: of the models that need not be evaluated again.
        rows: by the label of the model.
    """
    return _record(material, {**identity, STATUS: OK, ERROR: ""}, keys, rows)


def _record(
    material: Material[Any],
    identity: Row,
    keys: Mapping[str, str],
    rows: Mapping[str, Row],
) -> Record:
    source = {"name": material.name, "source": material.source}
    return cast(
        Record, {**source, "keys": dict(keys), **identity, "models": dict(rows)}
    )
