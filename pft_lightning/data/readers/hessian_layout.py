"""Layouts in which files keep a Hessian."""

from __future__ import annotations

import numpy as np

from pft_lightning.errors import DataFormatError


def hessian_to_force_constants(
    hessian: np.ndarray, n_atoms: int, where: str = "hessian"
) -> np.ndarray:
    """Bring a Hessian of any common layout to (n_atoms, n_atoms, 3, 3).

    Accepted: (3N, 3N) as the reference implementation writes it, (N, 3, N, 3),
    (N, N, 3, 3), and each of them flattened. Where the shape fits several, the one
    that gives a symmetric matrix is taken.

    Args:
        hessian: eV/Å².
        n_atoms: N.
        where: file and row, for messages.

    Raises:
        DataFormatError: no layout fits, or several do.

    Source: nequix ``scripts/preprocess_data_phonopy.py``.
    """
    n = n_atoms
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for layout in ("atoms first", "coordinates first"):
        shapes = (
            [(n, n, 3, 3)]
            if layout == "atoms first"
            else [(3 * n, 3 * n), (n, 3, n, 3)]
        )
        for shape in [*shapes, (9 * n * n,)]:
            by_shape.setdefault(shape, []).append(layout)
    layouts = by_shape.get(hessian.shape)
    if layouts is None:
        raise DataFormatError(
            f"{where}: the hessian has shape {hessian.shape}; expected "
            f"{(3 * n, 3 * n)}, {(n, 3, n, 3)}, {(n, n, 3, 3)} or {(9 * n * n,)} for "
            f"{n} atoms. It belongs to another structure."
        )
    candidates = []
    for layout in layouts:
        if layout == "atoms first":
            array = hessian.reshape(n, n, 3, 3)
        else:
            array = hessian.reshape(n, 3, n, 3).swapaxes(1, 2)
        candidates.append(np.ascontiguousarray(array, dtype=np.float64))
    if len(candidates) == 1 or np.array_equal(candidates[0], candidates[1]):
        return candidates[0]
    broken = [_broken_symmetry(array) for array in candidates]
    # A wrong layout breaks the symmetry by about the size of the entries.
    if min(broken) > 0.1 * max(broken):
        raise DataFormatError(
            f"{where}: a hessian of shape {hessian.shape} is ambiguous for {n} atoms, "
            "and no layout of it is symmetric. Store it as (3N, 3N)."
        )
    return candidates[int(np.argmin(broken))]


def _broken_symmetry(array: np.ndarray) -> float:
    return float(np.abs(array - array.transpose(1, 0, 3, 2)).max())
