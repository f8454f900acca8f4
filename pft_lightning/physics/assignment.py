"""Which mode of a potential is which of a reference, where their order may differ.

Modes are the same that move atoms alike: by the squares ``|<e|e'>|²`` of the overlaps
of their eigenvectors. Those of a degenerate group are arbitrary; the mean of
``cos²`` over the principal angles between two groups, ``tr(P P') / min(g, g')`` with
their projectors and sizes, is not (C. Jordan, Bull. Soc. Math. France 3, 103, 1875).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.physics.vibrations import Spectrum, degenerate_groups


# What the largest change of places counts beside an overlap: it decides between equal
# ones, which rounding (1e-15) would decide otherwise.
_PLACES: Final = 1e-6


def assign_by_overlap(model: Spectrum, reference: Spectrum) -> torch.Tensor:
    """Find the modes for which overlaps with those of a reference sum to the most.

    Of equal overlaps those count that change the order least. Translations stay.

    Args:
        model: of the potential, with its modes.
        reference: on the same q-points, with its modes.

    Returns:
        (n_q, n_bands), int64: the mode of the potential that is each of the reference.

    Raises:
        ShapeError: a spectrum was made without its modes.
    """
    # Loaded where it is needed: options, which help pages read, load losses.
    from scipy.optimize import linear_sum_assignment

    if model.modes is None or reference.modes is None:
        raise ShapeError("The spectra were made without their modes.")
    squared = (reference.modes.mH @ model.modes).abs().square()
    found = torch.arange(squared.shape[1]).repeat(len(squared), 1)
    for q, overlaps in enumerate(squared):
        first = int((reference.weights[q] == 0).sum())
        costs = -_of_groups(
            overlaps[first:, first:],
            *(
                degenerate_groups(one.squares[q : q + 1, first:].detach())[0]
                for one in (reference, model)
            ),
        ).numpy()
        places = np.arange(len(costs)) / max(len(costs), 1)
        costs += _PLACES * (places[:, None] - places) ** 2
        _, columns = linear_sum_assignment(costs)
        found[q, first:] = first + torch.from_numpy(columns)
    return found


def _of_groups(
    squared: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Give each pair of modes what their groups have in common, from 0 to 1.

    Args:
        squared: (n, n), squares of overlaps.
        rows: (n,), the group of each row.
        columns: (n,), the group of each column.
    """
    of_row, of_column = (
        torch.nn.functional.one_hot(groups).to(squared) for groups in (rows, columns)
    )
    traces = of_row.T @ squared @ of_column
    sizes = torch.minimum(of_row.sum(dim=0)[:, None], of_column.sum(dim=0))
    return (traces / sizes)[rows][:, columns]
