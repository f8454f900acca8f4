"""Tables of a layout on a device: which tile is which part of a row, and from where."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from pft_lightning.kernels.interface import COUPLING, FEATURE, MESSAGE, WEIGHT
from pft_lightning.kernels.layout import Layout


# Channels of a tile: the largest of these that leaves no tile half empty.
_BLOCKS = (128, 64, 32)
# Powers of two up to MAX_M; two components are rare.
_WIDTHS = (0, 1, 4, 8, 16)


class Tables(NamedTuple):
    """What the kernels read of a layout.

    Attributes:
        channels: of a tile, a power of two.
        widths: components that tiles are compiled for, after a zero: the least that is
            enough is taken for each.
        tiles: int32, for each slot a row for each tile of a row of what is written.
        paths: int32, for each slot what is added up in these tiles.
        is_complete: for each slot whether tiles are all of a row; features may have
            blocks that no path reads.
    """

    channels: int
    widths: tuple[int, ...]
    tiles: tuple[torch.Tensor, ...]
    paths: tuple[torch.Tensor, ...]
    is_complete: tuple[bool, ...]


@functools.lru_cache(maxsize=256)
def find_tables(layout: Layout, device: torch.device) -> Tables:
    """Make the tables of a layer, once.

    Args:
        layout: of the layer.
        device: where they are read.
    """
    table = layout.table
    channels = next((n for n in _BLOCKS if not (table["channels"] % n).any()), 32)
    widest = int(max(table["m1"].max(), table["m3"].max()))
    by_slot = {
        COUPLING: _couplings(table, channels),
        FEATURE: _features(table, channels),
        WEIGHT: (_weights(table, channels), [[0]]),
        MESSAGE: _messages(table, channels),
    }
    covered = {
        COUPLING: sum(m1 * m3 for _, m1, m3, *_ in by_slot[COUPLING][0]),
        WEIGHT: sum(tile[1] for tile in by_slot[WEIGHT][0]),
        **{
            slot: sum(m * n for _, _, m, n, *_ in by_slot[slot][0])
            for slot in (FEATURE, MESSAGE)
        },
    }
    return Tables(
        channels=channels,
        widths=_WIDTHS[: 1 + next(i for i, m in enumerate(_WIDTHS) if m >= widest)],
        tiles=tuple(_to(by_slot[slot][0], device) for slot in range(4)),
        paths=tuple(_to(by_slot[slot][1], device) for slot in range(4)),
        is_complete=tuple(covered[slot] == layout.widths[slot] for slot in range(4)),
    )


_Rows = list[list[int]]


def _to(rows: _Rows, device: torch.device) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True)


def _parts(channels: int, size: int) -> Iterable[tuple[int, int]]:
    """First channel and number of channels of each tile."""
    return ((c, min(size, channels - c)) for c in range(0, channels, size))


def _messages(table: np.ndarray, size: int) -> tuple[_Rows, _Rows]:
    tiles: _Rows = []
    paths: _Rows = []
    for m1, m3, n, k, s, w, g, stride in table.tolist():
        for c, width in _parts(n, size):
            tiles.append([g + c, stride, m3, width, len(paths), 1])
            paths.append([m1, s + c, n, k, m3, 1, w + c])
    return tiles, paths


def _features(table: np.ndarray, size: int) -> tuple[_Rows, _Rows]:
    tiles: _Rows = []
    paths: _Rows = []
    for block in np.unique(table["feature"]):
        same = table[table["feature"] == block].tolist()
        m1, n = same[0][0], same[0][2]
        for c, width in _parts(n, size):
            tiles.append([int(block) + c, n, m1, width, len(paths), len(same)])
            paths += [
                [m3, g + c, stride, k, 1, m3, w + c]
                for _, m3, _, k, _, w, g, stride in same
            ]
    return tiles, paths


def _weights(table: np.ndarray, size: int) -> _Rows:
    return [
        [w + c, width, m1, m3, k, s + c, n, g + c, stride]
        for m1, m3, n, k, s, w, g, stride in table.tolist()
        for c, width in _parts(n, size)
    ]


def _couplings(table: np.ndarray, size: int) -> tuple[_Rows, _Rows]:
    tiles: _Rows = []
    paths: _Rows = []
    for block in np.unique(table["coupling"]):
        same = table[table["coupling"] == block].tolist()
        parts = [
            [width, s + c, n, g + c, stride, 0, w + c]
            for _, _, n, _, s, w, g, stride in same
            for c, width in _parts(n, size)
        ]
        m1, m3 = same[0][:2]
        tiles.append([int(block), m1, m3, 0, len(paths), len(parts)])
        paths += parts
    return tiles, paths
