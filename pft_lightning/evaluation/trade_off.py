"""Gain on phonons against forgetting, along mixes of a base and a fine-tuned model.

Changes are relative to the base model, mix 0; on frames that hold its own labels, where
it has no error but rounding, to the fine-tuned model, mix 1. The gain of a mix is the
mean of how much lower each of its phonon errors is; its forgetting the mean of how much
higher each of its errors on upstream frames is. The knee is the mix with the largest
difference of the two, each scaled to go from 0 to 1 over all mixes (Satopää et al.,
ICDCSW 2011).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import Row


GAIN: Final = (
    schema.MESH_FREQUENCY_MAE,
    schema.FORCE_CONSTANTS_MAE,
    schema.MAX_FREQUENCY_ERROR_K,
    *map(schema.error_of, schema.THERMAL),
)

_PHONONS: Final = {*GAIN, *schema.MOLECULAR}

# Errors up to these are rounding, in the unit of the error: forces in float32 differ by
# some 1e-5 eV/Å from those in float64, energies by less than 1e-6 eV/atom. Against DFT
# no potential is that good, however much a fine-tuned one forgets.
_ROUNDING: Final = 1e-5
_ROUNDING_OF_FORCES: Final = 1e-4

_NO_KNEE: Final = "the curve does not bend: no mix between its ends is the best trade"
_NO_CURVE: Final = "gain or forgetting is not known, or is the same for all mixes"


class Point(TypedDict):
    """A model in the plane of gain and forgetting.

    Attributes:
        label: of the model.
        mix: how far it is from the base model to the fine-tuned one; None for a model
            that is compared with them.
        gain: mean of how much lower its phonon errors are, as a fraction of the base
            model's; None where it is not known, as are the next two.
        forgetting: mean of how much higher its errors on upstream frames are.
        changes: of each error, as a fraction of the base model's, or of the fine-tuned
            model's where the frames have the base model's own labels.
        n_materials: that the phonon errors are means over.
    """

    label: str
    mix: float | None
    gain: float | None
    forgetting: float | None
    changes: dict[str, float]
    n_materials: int


class TradeOff(TypedDict):
    """Part of ``metrics.json``.

    Attributes:
        points: mixes from 0 to 1, then the other models.
        knee: mix at the knee; None where there is none.
        remark: why there is none; empty where there is one.
        own_labels: the upstream frames hold the base model's own labels, so that what
            is forgotten is told as a fraction of the fine-tuned model's errors.
    """

    points: list[Point]
    knee: float | None
    remark: str
    own_labels: bool


def is_rounding(name: str, error: float) -> bool:
    """Tell whether an error is no more than rounding, as on frames with own labels.

    Args:
        name: of the error, such as ``forces_mae``; that of a log is
            ``upstream/forces_mae``.
        error: in its unit.
    """
    forces = name.rpartition("/")[2] == schema.FORCES_MAE
    return not error > (_ROUNDING_OF_FORCES if forces else _ROUNDING)


def relative_change(
    name: str, before: float | None, after: float | None
) -> float | None:
    """Change of an error as a fraction; None where that says nothing.

    Args:
        name: of the error, see ``is_rounding``.
        before: of the model that others are compared with.
        after: of one of the others.

    Returns:
        None where one of the two is unknown, or the first is zero or rounding.
    """
    if before is None or after is None or is_rounding(name, before):
        return None
    return after / before - 1


def describe_trade_off(
    rows: Iterable[Row],
    forgetting: Mapping[str, Mapping[str, Any]],
    mixes: Mapping[str, float],
) -> TradeOff:
    """Sum up the evaluation of several mixes.

    Means are over the materials that all mixes finished; of another model, over those
    of them that it finished, too.

    Args:
        rows: one per material and model.
        forgetting: errors on upstream frames by label.
        mixes: by label; 0 is among them.
    """
    errors: dict[str, dict[str, Row]] = {}
    for row in rows:
        done = errors.setdefault(row[schema.MODEL], {})
        if row[schema.STATUS] == schema.OK:
            done[row[schema.NAME]] = row
    in_order = sorted(mixes, key=mixes.__getitem__)
    shared = set.intersection(*(set(errors.get(label, ())) for label in in_order))
    labels = [*in_order, *(label for label in errors if label not in mixes)]
    base, tuned = (forgetting.get(label, {}) for label in (in_order[0], in_order[-1]))
    first = errors[in_order[0]]
    # One alone may be rounding for another reason: forces that vanish by symmetry.
    known_errors = [name for name in schema.FORGETTING if base.get(name) is not None]
    own_labels = bool(known_errors) and all(
        is_rounding(name, base[name]) for name in known_errors
    )
    changes = {
        label: {
            **_phonon_changes(first, errors.get(label, {}), shared),
            **_changes(base, forgetting.get(label, {}), tuned if own_labels else base),
        }
        for label in labels
    }
    # Means are over the errors that all mixes have.
    known = set.intersection(*(set(changes[label]) for label in in_order))
    points = [
        Point(
            label=label,
            mix=mixes.get(label),
            gain=_mean(changes[label], known & _PHONONS, sign=-1),
            forgetting=_mean(changes[label], known & {*schema.FORGETTING}),
            changes=changes[label],
            n_materials=len(shared & errors.get(label, {}).keys()),
        )
        for label in labels
    ]
    knee, remark = find_knee(points[: len(mixes)])
    return TradeOff(points=points, knee=knee, remark=remark, own_labels=own_labels)


def find_knee(points: Sequence[Point]) -> tuple[float | None, str]:
    """Mix at the knee of a curve, or None and why there is none.

    Args:
        points: mixes from 0 to 1.
    """
    known = [p for p in points if p["gain"] is not None and p["forgetting"] is not None]
    if len(known) < 3:
        return None, _NO_CURVE
    both = np.array([[p["gain"], p["forgetting"]] for p in known])
    spread = both.max(axis=0) - both.min(axis=0)
    if not (spread > 0).all():
        return None, _NO_CURVE
    scaled = (both - both.min(axis=0)) / spread
    best = int(np.argmax(scaled[:, 0] - scaled[:, 1]))
    if best in (0, len(known) - 1):
        return None, _NO_KNEE
    return known[best]["mix"], ""


def _mean(
    changes: Mapping[str, float], names: Collection[str], sign: int = 1
) -> float | None:
    found = [sign * change for name, change in changes.items() if name in names]
    return math.fsum(found) / len(found) if found else None


def _phonon_changes(
    base: Mapping[str, Row], model: Mapping[str, Row], shared: Collection[str]
) -> dict[str, float]:
    """Changes of mean errors over the shared materials that the model finished."""
    names = [name for name in base if name in shared and name in model]
    first: dict[str, float] = {}
    now: dict[str, float] = {}
    for quantity in (*GAIN, *schema.MOLECULAR):
        pairs = [[_number(m[name], quantity) for m in (base, model)] for name in names]
        known = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if known:
            first[quantity], now[quantity] = np.mean(known, axis=0).tolist()
    return _changes(first, now, first, first)


def _number(row: Row, quantity: str) -> float:
    value = row.get(quantity)
    return math.nan if value is None else float(value)


def _changes(
    base: Mapping[str, Any],
    model: Mapping[str, Any],
    scale: Mapping[str, Any],
    quantities: Iterable[str] = schema.FORGETTING,
) -> dict[str, float]:
    return {
        name: (model[name] - base[name]) / scale[name]
        for name in quantities
        if name in base
        and not is_rounding(name, scale.get(name, 0.0))
        and math.isfinite(model.get(name, math.nan))
    }
