"""Where the compiled messages find the blocks of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.interface import PATH


@dataclass(frozen=True, slots=True)
class ProductPath:
    """From features (place, degree l) and harmonics (degree) to messages (place)."""

    source: int
    degree: int
    harmonic: int
    target: int
    target_degree: int
    channels: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the blocks of each path lie in the rows of the four arguments.

    Attributes:
        table: (n_paths,), of ``PATH``.
        widths: of rows of couplings, features, weights and messages.
        couplings: whose columns the rows of couplings have, in this order.
        message_shapes: (components, channels) of each representation of the messages,
            in the order of their rows.
        products: of numbers, that the messages of an edge take.
    """

    table: np.ndarray
    widths: tuple[int, int, int, int]
    couplings: tuple[Coupling, ...]
    message_shapes: tuple[tuple[int, int], ...]
    products: int


def make_layout(
    paths: Sequence[ProductPath],
    feature_shapes: Sequence[tuple[int, int]],
    kinds: Sequence[Coupling],
) -> Layout:
    """Lay out the arguments of a layer.

    Args:
        paths: of the layer, in the order of their weights.
        feature_shapes: (components, channels) of each representation of the features.
        kinds: of each path; those of one kind share couplings.
    """
    couplings = tuple(sorted(set(kinds)))
    columns = np.cumsum([0] + [kind.columns for kind in couplings])
    ends = np.cumsum([0] + [m * n for m, n in feature_shapes])
    targets = sorted({(path.target, path.target_degree) for path in paths})
    channels = [sum(p.channels for p in paths if p.target == t) for t, _ in targets]
    shapes = tuple(
        (2 * degree + 1, n) for (_, degree), n in zip(targets, channels, strict=True)
    )
    starts = np.cumsum([0] + [m * n for m, n in shapes])
    filled = [0] * len(targets)
    rows, weight = [], 0
    for path, kind in zip(paths, kinds, strict=True):
        place = targets.index((path.target, path.target_degree))
        rows.append(
            (
                2 * path.degree + 1,
                2 * path.target_degree + 1,
                path.channels,
                columns[couplings.index(kind)],
                ends[path.source],
                weight,
                starts[place] + filled[place],
                channels[place],
            )
        )
        weight += path.channels
        filled[place] += path.channels
    return Layout(
        table=np.array(rows, dtype=PATH),
        widths=(int(columns[-1]), int(ends[-1]), weight, int(starts[-1])),
        couplings=couplings,
        message_shapes=shapes,
        products=sum(m1 * m3 * n for m1, m3, n, *_ in rows),
    )
